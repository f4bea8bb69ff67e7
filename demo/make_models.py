"""Make models of the real architectures, tiny, with seeded random weights: the demo's text encoder, and the tests'.

It is run as a script, ``python make_models.py COMFYUI MODELS [FOLDER]``, since it imports the ComfyUI at ``COMFYUI``.
``FOLDER`` limits it to one folder of models. The demo's other models are trained (``demo/models``).
Shapes come from ComfyUI's own classes, so its own loaders accept the files.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors import safe_open
from safetensors.torch import save_file

# heads = dim / 128 in ComfyUI's detection; the rest is as small as its loader accepts.
TINY_WAN = {"dim": 128, "ffn_dim": 256, "num_layers": 2, "num_heads": 1, "out_dim": 16, "text_dim": 4096}
# ComfyUI's configuration of the Wan 2.1 VAE (comfy/sd.py), with dim 4 instead of 96.
TINY_VAE = {
    "dim": 4,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "dropout": 0.0,
}
# Kept in a file, since the trained experts know the encodings that it leads to, and another version of sentencepiece
# may train another one.
TOKENIZER = Path(__file__).parent / "models" / "tokenizer.model"
TOKENIZER_TEXT = (
    "dissolve, wipe left, wipe right, circle, slide left, slide right, zoom in, smooth motion, high quality",
    "a dissolve, a circle, a wipe left, a slide right, a zoom in from the first picture to the second",
    "video of a slide left between two photographs, the picture changes with a wipe right",
    "Puppy, playing, happy, barking, joyful",
    "a cat turns its head, soft light, the camera moves slowly to the right",
    "a cup of coffee on a wooden table, steam rises, smooth motion, high quality",
)


def wan_transformer(seed: int, in_dim: int) -> dict[str, torch.Tensor]:
    """Return a Wan transformer; ``in_dim`` 36 is image-to-video (16 noise, 4 mask, 16 image), 16 text-to-video."""
    import comfy.ldm.wan.model
    import comfy.ops

    model_type = "i2v" if in_dim == 36 else "t2v"
    model = comfy.ldm.wan.model.WanModel(
        model_type=model_type, in_dim=in_dim, operations=comfy.ops.disable_weight_init, **TINY_WAN
    )
    # A CLIP vision branch is what tells Wan 2.1 image-to-video from Wan 2.2, which has none.
    state_dict = {key: value for key, value in model.state_dict().items() if not key.startswith("img_emb")}
    return random_weights({k: v for k, v in state_dict.items() if "k_img" not in k and "v_img" not in k}, seed)


def wan_vae(seed: int) -> dict[str, torch.Tensor]:
    """Return a Wan 2.1 VAE of width 4 (96 in the real one)."""
    import comfy.ldm.wan.vae

    return random_weights(comfy.ldm.wan.vae.WanVAE(**TINY_VAE).state_dict(), seed)


def umt5(seed: int) -> dict[str, torch.Tensor]:
    """Return a small UMT5 with a tokenizer inside, as ComfyUI's own UMT5 files have it."""
    import comfy.ops
    import comfy.text_encoders.t5
    import comfy.text_encoders.wan
    from pack import TINY_UMT5  # beside this script, hence importable

    tokenizer = TOKENIZER.read_bytes() if TOKENIZER.exists() else train_tokenizer()
    vocab_size = sentencepiece.SentencePieceProcessor(model_proto=tokenizer).get_piece_size()
    options = {"model_name": "umt5xxl", "umt5xxl_model_config": {**TINY_UMT5, "vocab_size": vocab_size}}
    model = comfy.text_encoders.wan.UMT5XXlModel(model_options=options)
    weights = random_weights(model.transformer.state_dict(), seed)
    return {**weights, "spiece_model": torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)}


def train_tokenizer() -> bytes:
    """Train a SentencePiece tokenizer; bytes stand in for characters it never saw, so any prompt works."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TOKENIZER_TEXT),
        model_writer=model,
        vocab_size=384,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def random_weights(shapes: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Fill every tensor: ComfyUI leaves new weights uninitialised, and NaNs would make comparisons meaningless."""
    generator = torch.Generator().manual_seed(seed)

    def fill(key: str, shape: torch.Size) -> torch.Tensor:
        if key.endswith(("gamma", "norm.weight", "norm_q.weight", "norm_k.weight", "norm3.weight")):
            return torch.ones(shape)
        if len(shape) < 2:
            return torch.zeros(shape)
        return torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5

    return {key: fill(key, value.shape) for key, value in sorted(shapes.items())}


def tiny_models() -> Iterator[tuple[str, Any]]:
    """Yield each file's path below the models folder and a function that makes its weights."""
    yield "diffusion_models/tiny_wan_high_noise.safetensors", lambda: wan_transformer(seed=1, in_dim=36)
    yield "diffusion_models/tiny_wan_low_noise.safetensors", lambda: wan_transformer(seed=2, in_dim=36)
    yield "diffusion_models/tiny_wan_t2v.safetensors", lambda: wan_transformer(seed=3, in_dim=16)
    yield "vae/tiny_wan_vae.safetensors", lambda: wan_vae(seed=4)
    yield "text_encoders/tiny_umt5.safetensors", lambda: umt5(seed=5)


def main(comfyui: str, models: str, folder: str = "") -> None:
    """Make the files that are missing, or that an older version of this script made."""
    made_by = hashlib.sha256(Path(__file__).read_bytes() + (Path(__file__).parent / "pack/__init__.py").read_bytes())
    metadata = {"made_by": made_by.hexdigest()}
    sys.path.insert(0, comfyui)
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()  # so that ComfyUI sees --cpu
    for name, make in tiny_models():
        path = Path(models) / name
        if not name.startswith(folder) or (path.exists() and _metadata(path) == metadata):
            continue
        print(f"making {name}", file=sys.stderr, flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        save_file({key: value.contiguous() for key, value in make().items()}, unfinished, metadata)
        unfinished.replace(path)


def _metadata(path: Path) -> dict[str, str] | None:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


if __name__ == "__main__":
    main(*sys.argv[1:])
