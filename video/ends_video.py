"""The video between the two images: known at its ends, grey between; its mask, its digest, frames built on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from ..wan import FRAMES_PER_LATENT
from .geometry import VideoSize, latent_frames

# Mid-grey stands for "unknown" in the conditioning video, as in Wan's official image2video code and ComfyUI's nodes.
UNKNOWN_GREY = 0.5


@dataclass(frozen=True)
class EndsVideo:
    """``start`` and ``end`` are [frames, generated height, generated width, 3], 0...1, or None; ``length`` is 4n+1.

    A frame that both give is the end's. Frames are as ComfyUI's nodes build them: float32, on the CPU.
    """

    start: torch.Tensor | None
    end: torch.Tensor | None
    size: VideoSize
    length: int

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """[1, 3, frames, height, width], as the VAE sees the video."""
        return (1, 3, self.length, self.size.generated_height, self.size.generated_width)

    @property
    def known_at_start(self) -> int:
        """How many frames the start image gives."""
        return 0 if self.start is None else self.start.shape[0]

    @property
    def known_at_end(self) -> int:
        """How many frames the end image gives."""
        return 0 if self.end is None else self.end.shape[0]

    def is_grey(self, first: int, end: int) -> bool:
        """Whether none of the frames from ``first`` to before ``end`` is known."""
        return first >= self.known_at_start and end <= self.length - self.known_at_end

    def frames(self, first: int, end: int) -> torch.Tensor:
        """Return frames ``first`` to before ``end``, [frames, height, width, 3]."""
        frames = torch.full((end - first, self.size.generated_height, self.size.generated_width, 3), UNKNOWN_GREY)
        if first < self.known_at_start:
            known = self.start[first:end]
            frames[: known.shape[0]] = known
        end_begins = self.length - self.known_at_end
        if end > end_begins:
            known = self.end[max(first - end_begins, 0) : end - end_begins]
            frames[-known.shape[0] :] = known
        return frames

    def whole(self) -> torch.Tensor:
        """Return all frames, for a VAE that cannot work on parts."""
        return self.frames(0, self.length)

    def mask(self, scale: int) -> torch.Tensor:
        """Return [1, 4, latent frames, height / scale, width / scale], 0 where a frame is known and 1 elsewhere."""
        known = torch.ones((1, 1, latent_frames(self.length) * FRAMES_PER_LATENT))
        if self.start is not None:
            # The first latent frame holds one video frame instead of four, so known frames count three more.
            known[:, :, : self.known_at_start + FRAMES_PER_LATENT - 1] = 0.0
        if self.end is not None:
            known[:, :, -self.known_at_end :] = 0.0
        height, width = self.size.generated_height // scale, self.size.generated_width // scale
        mask = known.view(1, latent_frames(self.length), FRAMES_PER_LATENT).transpose(1, 2)
        return mask[..., None, None].repeat(1, 1, 1, height, width)

    def digest(self) -> str:
        """Return a SHA-256 of everything the encoder would see."""
        sha = hashlib.sha256(repr((self.shape, self.known_at_start, self.known_at_end)).encode())
        for images in (self.start, self.end):
            if images is not None:
                sha.update(images.to("cpu", torch.float32).contiguous().numpy())
        return sha.hexdigest()
