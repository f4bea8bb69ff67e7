"""The weights of a tiny interpolation model."""

import torch


def rife_weights(head=4, channels=8):
    """Return the weights of ComfyUI's IFNet, small, from a seed."""
    generator, made = torch.Generator().manual_seed(3), {}

    def layer(name, *shape, bias):
        made[f"{name}.weight"] = torch.randn(*shape, generator=generator) * 0.05
        made[f"{name}.bias"] = torch.randn(bias, generator=generator) * 0.05

    layer("encode.cnn0", 16, 3, 3, 3, bias=16)
    layer("encode.cnn1", 16, 16, 3, 3, bias=16)
    layer("encode.cnn2", 16, 16, 3, 3, bias=16)
    layer("encode.cnn3", 16, head, 4, 4, bias=head)
    for block in range(5):
        into = 7 + 2 * head if block == 0 else 8 + 4 + 8 + 2 * head
        name = f"blocks.{block}"
        layer(f"{name}.conv0.0.0", channels // 2, into, 3, 3, bias=channels // 2)
        layer(f"{name}.conv0.1.0", channels, channels // 2, 3, 3, bias=channels)
        for i in range(8):
            layer(f"{name}.convblock.{i}.conv", channels, channels, 3, 3, bias=channels)
            made[f"{name}.convblock.{i}.beta"] = torch.ones(1, channels, 1, 1)
        layer(f"{name}.lastconv.0", channels, 52, 4, 4, bias=52)
    return made
