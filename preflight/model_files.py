"""What a model file's header and name tell: sizes, dtypes, a Wan model's dimensions and operations, which expert."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from ..wan import LATENT_CHANNELS, PIXELS_PER_LATENT, PIXELS_PER_TOKEN, TEXT_TOKENS

SAFETENSORS = (".safetensors", ".sft")
"""How the names of such files end."""
# Bits per element of a safetensors dtype (the description of its format); all others there have 8.
_BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32}
_BITS |= {"F16": 16, "BF16": 16, "I16": 16, "U16": 16, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
# The head makes the values of a whole patch for every output channel.
_PATCH_AREA = (PIXELS_PER_TOKEN // PIXELS_PER_LATENT) ** 2
# A name is matched in lower case, one space between its words (_words).
# "high" and "low" say the expert at the end of a name, before "noise", and before what file names are made of. Before
# other words they say something else: low light, high angle, high res.
_EXPERT = re.compile(
    r"(?<![a-z])(high|low)(?: ?noise|$"
    r"| (?=(?:v|e|ep|r|rank|dim|(?:mx|nv)?fp|bf|nf|int|i?q)?\d"
    r"|(?:epoch|steps?|lora|lokr|loha|model|expert|scaled|gguf|i2v|t2v|flf2v|wan|comfy|kj|final|lightning|light ?x2v"
    r"|distill(?:ed)?)(?![a-z])))"
)
# Step-distilled files: Lightning and other works of lightx2v, rCM, CausVid, AccVid, FastWan, Self Forcing, DMD; or the
# number of steps. "2000steps", and "8_step_200" of a trainer's file names, count training steps.
_DISTILLED = re.compile(
    r"(?<!un)(?<!non )(?<!not )(?<!no )(?<![a-z])"
    r"(?:lightning|light ?x2v|(?:step|cfg)? ?distill(?:ed|ation)?|r ?cm|caus ?vid|acc ?vid(?:eo)?|fast ?wan"
    r"|self ?forcing|dmd2?)(?![a-z])"
    r"|(?<!\d)(?<!epoch )[1-8](?:steps?| steps?(?! ?\d))(?![a-z])"
)
# What a file's metadata calls it: the ModelSpec standard, kohya's and musubi's trainers, ai-toolkit.
_TITLES = ("modelspec.title", "modelspec.tags", "ss_output_name", "title", "name")


class WanShape(NamedTuple):
    """The dimensions of a Wan transformer."""

    dim: int
    ffn_dim: int
    layers: int
    in_channels: int
    out_channels: int

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


# Wan2.2 wan/configs/wan_i2v_A14B.py: dim, ffn_dim, num_layers; 16 latent channels, 4 mask, 16 image.
WAN_14B = WanShape(dim=5120, ffn_dim=13824, layers=40, in_channels=36, out_channels=LATENT_CHANNELS)


class Tensor(NamedTuple):
    """A tensor as the header lists it: safetensors' name of its dtype (``"BF16"``) and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelFile:
    """A model file: ``size`` in bytes; ``tensors`` by name, or ``None`` where the format does not tell (GGUF, .pt).

    ``titles`` are what its metadata calls it.
    """

    path: Path
    size: int
    tensors: Mapping[str, Tensor] | None
    titles: tuple[str, ...] = ()

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
    if path.suffix.lower() not in SAFETENSORS:
        return ModelFile(path, size, None)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 -- the file is no dict
            tensors = {key: Tensor(part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is not a whole safetensors file ({error}). The download was probably cut short: "
            f"download it again. It has {size:,} bytes now."
        ) from error
    return ModelFile(path, size, tensors, tuple(metadata[key] for key in _TITLES if key in metadata))


def read_titles(path: Path) -> tuple[str, ...]:
    """Return what a file's metadata calls it; nothing if it has none or cannot be read."""
    try:
        return read_file(path).titles
    except (OSError, ValueError):
        return ()


def expert_of(name: str, titles: Iterable[str] = ()) -> str | None:
    """Return which expert a file is for by its name, ``"high"`` or ``"low"``; ``None`` if it says neither or both.

    The file's own name counts most, then its folders, the nearest first, then its ``titles``.
    """
    for text in (*_parts(name), *titles):
        found = {match[1] for match in _EXPERT.finditer(_words(text))}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def is_distilled(name: str, titles: Iterable[str] = ()) -> bool:
    """Whether name, folders or ``titles`` say that a file is for few steps without guidance (Lightning, rCM, …)."""
    return any(_DISTILLED.search(_words(text)) for text in (*_parts(name), *titles))


def _parts(name: str) -> list[str]:
    """Return the file's name and its folders', the nearest first; the separators may be those of any system."""
    return re.split(r"[\\/]", re.sub(r"\.[A-Za-z]\w*$", "", name))[::-1]


def _words(text: str) -> str:
    """Return a text in lower case with one space between its words: ``Wan22-LowNoise_v1`` is ``wan22 low noise v1``."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return re.sub(r"[\W_]+", " ", apart).strip().lower()
