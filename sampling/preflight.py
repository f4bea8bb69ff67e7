"""Mistakes that can be told from the models alone, refused before any weight goes to the device."""

from __future__ import annotations

from typing import Any

_LOADER_INPUTS = ("unet_name", "ckpt_name", "model_name")


def check_latent(latent: dict, positive: list) -> None:
    """Refuse a latent that cannot hold the video its conditioning was made for.

    Raises:
        ValueError: the samples are not [batch, channels, frames, height, width], or have another number of frames
            than the images' latent.
    """
    samples = latent["samples"]
    if samples.ndim != 5:
        raise ValueError(
            f"latent_image has the shape {list(samples.shape)}, which is not a video. Connect the latent of Wan FLF2V "
            "First/Last Frame."
        )
    for _, options in positive:
        images = options.get("concat_latent_image")
        if images is not None and images.shape[2] != samples.shape[2]:
            raise ValueError(
                f"latent_image has {samples.shape[2]} latent frames, but the first/last-frame conditioning has "
                f"{images.shape[2]}. Connect the latent of the same Wan FLF2V First/Last Frame node."
            )


def check_experts(high: Any, low: Any, positive: list, prompt: dict | None, node_id: str | None) -> None:
    """Refuse an expert that would silently ignore the first and last image.

    Args:
        high: the high-noise MODEL.
        low: the low-noise MODEL.
        positive: the positive CONDITIONING; images are in it under ``concat_latent_image``.
        prompt: the queued API prompt and
        node_id: this node's id in it, to name the file in the message.

    Raises:
        ValueError: a model has no input channels for images.
    """
    if not any("concat_latent_image" in options for _, options in positive):
        return
    for name, model in (("model_high_noise", high), ("model_low_noise", low)):
        if image_channels(model) == 0:
            file = loader_file(prompt, node_id, name)
            raise ValueError(
                f"{name}{f' ({file})' if file else ''} is a text-to-video checkpoint: it has no input channels for "
                "images, so it would ignore both of them. Load an image-to-video checkpoint, for example "
                f"wan2.2_i2v_{'high' if model is high else 'low'}_noise_14B_fp8_scaled.safetensors."
            )


def image_channels(model: Any) -> int | None:
    """Return how many input channels ``model`` has beyond the latent's own, or None when it is not a Wan model."""
    patch_embedding = getattr(model.model.diffusion_model, "patch_embedding", None)
    if patch_embedding is None:
        return None
    return patch_embedding.weight.shape[1] - model.get_model_object("latent_format").latent_channels


def loader_file(prompt: dict | None, node_id: str | None, input_name: str) -> str | None:
    """Follow a model input back through patches and LoRAs to its loader and return the file it loads, if it tells."""
    link = (prompt or {}).get(node_id, {}).get("inputs", {}).get(input_name)
    seen = set()
    while isinstance(link, list) and link[0] in prompt and link[0] not in seen:
        seen.add(link[0])
        inputs = prompt[link[0]]["inputs"]
        for key in _LOADER_INPUTS:
            if isinstance(inputs.get(key), str):
                return inputs[key]
        link = inputs.get("model")
    return None
