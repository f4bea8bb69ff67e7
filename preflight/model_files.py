"""What a model file's header and name tell: sizes, dtypes, a Wan model's dimensions and operations, which expert."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from ..wan import PIXELS_PER_LATENT, PIXELS_PER_TOKEN, TEXT_TOKENS

# Bits per element of a safetensors dtype (the description of its format); all others there have 8.
_BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32}
_BITS |= {"F16": 16, "BF16": 16, "I16": 16, "U16": 16, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
# The head makes the values of a whole patch for every output channel.
_PATCH_AREA = (PIXELS_PER_TOKEN // PIXELS_PER_LATENT) ** 2
# "high" and "low" as words of a name, or joined to "noise" in any spelling; "low_vram" is no expert.
_EXPERT = re.compile(r"(?<![a-z])(high|low)(?:[\W_]*noise|(?![a-z])(?![\W_]*(?:vram|res|rank|quality|poly|mem)))", re.I)
# Lightning, lightx2v's step-distilled files and their like; "2000steps" is a training run.
_DISTILLED = re.compile(r"lightning|lightx2v|distill|(?<!\d)[1-8][-_ ]?steps?(?![a-z])", re.I)


class WanShape(NamedTuple):
    """The dimensions of a Wan transformer; ``text_dim`` is the width of the text encoder's embeddings."""

    dim: int
    ffn_dim: int
    layers: int
    in_channels: int
    out_channels: int
    text_dim: int

    @property
    def image_channels(self) -> int:
        """Input channels beyond the latent's own: 0 is text-to-video, 20 Wan 2.2 image-to-video (4 mask, 16 image)."""
        return self.in_channels - self.out_channels

    def forward_tflop(self, tokens: int) -> float:
        """Return the 10^12 operations of one pass over ``tokens``, counting a multiplication and an addition as two.

        Per layer (Wan2.2 wan/modules/model.py): q, k, v and o of the self-attention and q and o of the cross-attention
        are 6 products of 2*N*d*d; attention over the tokens is 4*N*N*d and over the text 4*N*L*d; k and v of the text
        are 4*L*d*d; the feed-forward part is 4*N*d*f. What lies outside the layers is less than 0.1 % at real sizes.
        """
        n, d, length = tokens, self.dim, TEXT_TOKENS
        attention = 12 * n * d**2 + 4 * n**2 * d + 4 * n * length * d + 4 * length * d**2
        return self.layers * (attention + 4 * n * d * self.ffn_dim) / 1e12


# Wan2.2 wan/configs/wan_i2v_A14B.py: dim, ffn_dim, num_layers; 16 latent channels, 4 mask, 16 image. The text encoder
# UMT5-XXL is 4096 wide.
WAN_14B = WanShape(dim=5120, ffn_dim=13824, layers=40, in_channels=36, out_channels=16, text_dim=4096)


class Tensor(NamedTuple):
    """A tensor as the header lists it: safetensors' name of its dtype (``"BF16"``) and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelFile:
    """A model file: ``size`` in bytes; ``tensors`` by name, or ``None`` where the format does not tell (GGUF, .pt)."""

    path: Path
    size: int
    tensors: Mapping[str, Tensor] | None

    @cached_property
    def bytes_by_dtype(self) -> dict[str, int]:
        """Bytes of the tensors by safetensors dtype, empty without a header."""
        total: Counter[str] = Counter()
        for dtype, shape in (self.tensors or {}).values():
            total[dtype] += math.prod(shape) * _BITS.get(dtype, 8) // 8
        return dict(total)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights; without a header, the file's."""
        return sum(self.bytes_by_dtype.values()) or self.size

    @cached_property
    def wan(self) -> WanShape | None:
        """The dimensions, if it is a Wan diffusion model by the keys that ComfyUI's detection looks for."""
        prefix = self.wan_prefix
        if prefix is None or self.tensors is None:
            return None
        blocks = re.compile(rf"{re.escape(prefix)}blocks\.(\d+)\.")
        try:
            return WanShape(
                dim=self.tensors[f"{prefix}head.modulation"].shape[-1],
                ffn_dim=self.tensors[f"{prefix}blocks.0.ffn.0.weight"].shape[0],
                layers=len({match[1] for match in map(blocks.match, self.tensors) if match}),
                in_channels=self.tensors[f"{prefix}patch_embedding.weight"].shape[1],
                out_channels=self.tensors[f"{prefix}head.head.weight"].shape[0] // _PATCH_AREA,
                text_dim=self.tensors[f"{prefix}text_embedding.0.weight"].shape[1],
            )
        except (KeyError, IndexError):
            return None

    @property
    def wan_prefix(self) -> str | None:
        """What comes before the transformer's own key names; ``None`` if it is no Wan transformer."""
        end = "head.modulation"  # comfy/model_detection.py knows Wan by it
        return next((key[: -len(end)] for key in self.tensors or () if key.endswith(end)), None)


def read_file(path: Path) -> ModelFile:
    """Read a model file's header, no weights.

    Raises:
        OSError: the file cannot be read.
        ValueError: its name ends in ``.safetensors``, but it is no such file or is cut short.
    """
    size = path.stat().st_size
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return ModelFile(path, size, None)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 -- the file is no dict
            tensors = {key: Tensor(part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is not a whole safetensors file ({error}). The download was probably cut short: "
            f"download it again. It has {size:,} bytes now."
        ) from error
    return ModelFile(path, size, tensors)


def expert_of(name: str) -> str | None:
    """Return which expert a file's name says it is for, ``"high"`` or ``"low"``; ``None`` if neither or both."""
    found = {match[1].lower() for match in _EXPERT.finditer(_stem(name))}
    return found.pop() if len(found) == 1 else None


def is_distilled(name: str) -> bool:
    """Whether the name says that the file is for few steps without guidance (Lightning, lightx2v, …)."""
    return _DISTILLED.search(_stem(name)) is not None


def _stem(name: str) -> str:
    """Return the name without its folders, with the separators of any system."""
    return re.split(r"[\\/]", name)[-1]
