"""Clips and conditioning as latents: encoded once, so that both experts learn from the same files.

A file holds one pair of pictures at one size and length. Latents are normalised to mean 0 and deviation 1 for each
channel, which is what the experts see of the exported VAE (``export.rescale_latent``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..video.geometry import video_size
from ..video.known_video import Keyframe, KnownVideo
from ..wan import FRAMES_PER_LATENT, PIXELS_PER_LATENT
from . import pictures
from .transitions import TRANSITIONS, transition_clip

# Height, width and frames with their weight: most at the demo's own size and length, some of every other.
SIDES = (96, 112, 128, 144, 160)
USUAL_SIDE = 128
LENGTHS = (17, 21, 25, 33, 49, 81)
PROCEDURAL = 0.15  # the share of pictures that are no photographs
PAIRS = 160
WORDS_PER_PAIR = 4  # of the seven; each costs an encode
LENGTH_WEIGHTS = (3.0, 2.0, 2.0, 4.0, 0.7, 0.3)
# How often a word is drawn, 1 if it is not here: where pictures move, the experts need more examples.
WORD_WEIGHTS = {"slide left": 2.0, "slide right": 2.0, "zoom in": 3.0}


@dataclass(frozen=True)
class Example:
    """One clip: its word, its latent [16, t, h, w] and its conditioning [20, t, h, w]: 4 of mask, 16 of image."""

    word: str
    latent: torch.Tensor
    conditioning: torch.Tensor


class Encoder:
    """Encodes videos and builds the conditioning exactly as node 67 and ComfyUI's WAN21 do."""

    def __init__(self, vae: nn.Module, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        self._vae = vae
        self._mean = mean.view(1, -1, 1, 1, 1)
        self._deviation = deviation.view(1, -1, 1, 1, 1)

    @torch.no_grad()
    def latent(self, clip: torch.Tensor) -> torch.Tensor:
        """Return the normalised latent [16, t, h, w] of a clip [3, frames, height, width], 0...1."""
        weight = next(self._vae.parameters())
        latent = self._vae.encode((clip[None] * 2 - 1).to(weight)).float().cpu()
        return ((latent - self._mean) / self._deviation)[0]

    def conditioning(
        self, start: torch.Tensor | None, end: torch.Tensor | None, length: int, key: tuple[int, torch.Tensor] | None
    ) -> torch.Tensor:
        """Return mask and image latent, [20, t, h, w]. ``key`` is a latent frame and the picture of pixel frame 4k."""
        given = next(picture for picture in (start, end) if picture is not None)
        size = video_size(given.shape[-1], given.shape[-2])
        as_frames = [None if picture is None else picture.movedim(0, -1)[None] for picture in (start, end)]
        keyframes = () if key is None else (Keyframe(FRAMES_PER_LATENT * key[0], key[1].movedim(0, -1)[None]),)
        video = KnownVideo(*as_frames, size, length, keyframes)
        frames, mask = video.whole().movedim(-1, 0), video.mask(PIXELS_PER_LATENT)[0]
        # The host turns the mask round: 1 is a known frame (WAN21.concat_cond in comfy/model_base.py).
        return torch.cat([1 - mask, self.latent(frames)])


@torch.no_grad()
def statistics(vae: nn.Module, photographs: list[torch.Tensor], count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation of the latent's channels, each [16], over pictures and short transitions."""
    generator = torch.Generator().manual_seed(7)
    words, latents = list(TRANSITIONS), []
    for i in range(count):
        start, end = (pictures.draw(photographs, 96, 96, PROCEDURAL, generator) for _ in range(2))
        latent = vae.encode(transition_clip(words[i % len(words)], start, end, 5)[None] * 2 - 1)
        latents.append(latent[0].flatten(1))
    together = torch.cat(latents, dim=1)
    return together.mean(1), together.std(1)


class OtherEncoderError(Exception):
    """Latents were made by another encoder than the VAE has now; the message is for people."""


def save_statistics(file: Path, vae: nn.Module, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Keep the statistics of a VAE's latents, which the export puts into it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"encoder": _encoder_mark(vae), "mean": mean, "deviation": deviation}, file)


def load_statistics(file: Path, vae: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what ``save_statistics`` kept.

    Raises:
        OtherEncoderError: the VAE's encoder is not the one whose latents they describe.
    """
    kept = torch.load(file, weights_only=True)
    if kept["encoder"] != _encoder_mark(vae):
        raise OtherEncoderError(
            f"the VAE's encoder was trained after the latents in {file.parent} were made: "
            "remove that folder, and high and low beside it, which learnt from them"
        )
    return kept["mean"], kept["deviation"]


def _encoder_mark(module: nn.Module) -> int:
    """Return a checksum of what makes the latents."""
    parts = (module.vae.encoder, module.vae.conv1)
    return zlib.crc32(b"".join(value.cpu().numpy().tobytes() for part in parts for value in part.state_dict().values()))


def make_pair(encoder: Encoder, photographs: list[torch.Tensor], number: int, seed: int) -> dict[str, torch.Tensor]:
    """Return the tensors of pair ``number``: four words from start to end, one ending alone, one with a keyframe."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    height, width = (SIDES[int(torch.randint(len(SIDES), (), generator=generator))] for _ in range(2))
    if float(torch.rand((), generator=generator)) < 0.4:
        height = width = USUAL_SIDE
    length = LENGTHS[int(torch.multinomial(torch.tensor(LENGTH_WEIGHTS), 1, generator=generator))]
    start, end = (pictures.draw(photographs, height, width, PROCEDURAL, generator) for _ in range(2))
    words = list(TRANSITIONS)
    chosen = [words[i] for i in torch.randperm(len(words), generator=generator)[:WORDS_PER_PAIR]]
    tensors = {}
    clips = {word: transition_clip(word, start, end, length) for word in chosen}
    for word in chosen:
        tensors[f"both/{word}/latent"] = encoder.latent(clips[word])
    tensors["both/conditioning"] = encoder.conditioning(start, end, length, None)
    # With one image given, the transition leads from it to itself: there is nothing else to show.
    word = words[int(torch.randint(len(words), (), generator=generator))]
    first_only = number % 2 == 0
    tensors[f"single/{word}/latent"] = encoder.latent(transition_clip(word, start, start, length))
    given = (start, None) if first_only else (None, start)
    tensors["single/conditioning"] = encoder.conditioning(*given, length, None)
    word = chosen[0]
    key = int(torch.randint(1, (length - 1) // 4, (), generator=generator))
    tensors[f"key/{word}/latent"] = tensors[f"both/{word}/latent"]
    tensors["key/conditioning"] = encoder.conditioning(
        start, end, length, (key, clips[word][:, FRAMES_PER_LATENT * key])
    )
    return {name: value.half().contiguous().clone() for name, value in tensors.items()}


def make_pairs(
    encoder: Encoder,
    photographs: list[torch.Tensor],
    folder: Path,
    count: int,
    seed: int,
    keep_on: Callable[[], bool],
    say: Callable[[str], None],
) -> int:
    """Write the pairs that are missing of ``count``; stop when ``keep_on`` says so. Return how many there are.

    Pairs of the same photographs and of another ``seed`` have other crops, sizes, lengths and words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        target = folder / f"{number:05}.safetensors"
        if target.exists():
            continue
        if not keep_on():
            return number
        unfinished = target.with_suffix(".unfinished")
        save_file(make_pair(encoder, photographs, number, seed), unfinished)
        unfinished.replace(target)
        say(f"pair {number + 1} of {count}")
    return count


class Examples:
    """The pairs in a folder, held in memory as float16, drawn in batches of one shape."""

    # How often both images, one image, a keyframe are drawn.
    KINDS = {"both": 0.75, "single": 0.1, "key": 0.15}

    def __init__(self, folder: Path, count: int) -> None:
        self._pairs = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        if len(self._pairs) < count:
            found = f"{len(self._pairs)} of {count} pairs in {folder}"
            raise FileNotFoundError(f"{found}: run the stage latents first")
        self._words = [[name.split("/") for name in pair if name.endswith("latent")] for pair in self._pairs]
        by_shape: dict[Any, list[int]] = {}
        for index, pair in enumerate(self._pairs):
            by_shape.setdefault(pair["both/conditioning"].shape, []).append(index)
        self._shapes = list(by_shape.values())

    def batch(self, tokens: int, generator: torch.Generator) -> list[Example]:
        """Return examples of one shape that have about ``tokens`` of the experts' tokens together, at least one."""
        weights = torch.tensor([float(len(indices)) for indices in self._shapes])
        indices = self._shapes[int(torch.multinomial(weights, 1, generator=generator))]
        _, frames, height, width = self._pairs[indices[0]]["both/conditioning"].shape
        count = max(1, round(tokens / (frames * height * width / 4)))
        return [self._example(indices, generator) for _ in range(count)]

    def _example(self, indices: list[int], generator: torch.Generator) -> Example:
        index = indices[int(torch.randint(len(indices), (), generator=generator))]
        kind = list(self.KINDS)[int(torch.multinomial(torch.tensor(list(self.KINDS.values())), 1, generator=generator))]
        words = [word for found, word, _ in self._words[index] if found == kind]
        weights = torch.tensor([WORD_WEIGHTS.get(word, 1.0) for word in words])
        word = words[int(torch.multinomial(weights, 1, generator=generator))]
        pair = self._pairs[index]
        return Example(word, pair[f"{kind}/{word}/latent"].float(), pair[f"{kind}/conditioning"].float())
