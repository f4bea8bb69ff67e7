"""The video as far as it is known: ends, keyframes, grey between; its mask, its digest, frames built on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..wan import FRAMES_PER_LATENT
from .geometry import VideoSize, latent_frames

# Mid-grey stands for "unknown" in the conditioning video, as in Wan's official image2video code and ComfyUI's nodes.
UNKNOWN_GREY = 0.5


class Keyframe(NamedTuple):
    """A frame between the ends: its number, a multiple of 4, its ``image``, and how strongly each expert keeps to it.

    The image is [1, height, width, 3], 0...1. Strengths are 0...1; 1 is known as well as an end. ``asked`` is the frame
    that was asked for, of which ``frame`` is the nearest multiple of 4; ``None`` if it is ``frame`` itself.
    """

    frame: int
    image: torch.Tensor
    strength: float = 1.0
    strength_low_noise: float = 1.0
    asked: int | None = None


@dataclass(frozen=True)
class KnownVideo:
    """``start`` and ``end`` are [frames, generated height, generated width, 3], 0...1, or None; ``length`` is 4n+1.

    A frame that both give is the end's. Frames are as ComfyUI's nodes build them: float32, on the CPU. The images of
    ``keyframes`` have the generated size; ``check_keyframes`` says which frames they may have.
    """

    start: torch.Tensor | None
    end: torch.Tensor | None
    size: VideoSize
    length: int
    keyframes: tuple[Keyframe, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """[1, 3, frames, height, width], as the VAE sees the video."""
        return (1, 3, self.length, self.size.generated_height, self.size.generated_width)

    @property
    def known_at_start(self) -> int:
        """How many frames the start image gives."""
        return 0 if self.start is None else self.start.shape[0]

    @property
    def begins_with(self) -> int:
        """How many first frames the start image gives, or a keyframe at frame 0 in its place."""
        return self.known_at_start or int(any(key.frame == 0 for key in self.keyframes))

    @property
    def known_at_end(self) -> int:
        """How many frames the end image gives."""
        return 0 if self.end is None else self.end.shape[0]

    def is_grey(self, first: int, end: int) -> bool:
        """Whether none of the frames from ``first`` to before ``end`` is known."""
        between = first >= self.known_at_start and end <= self.length - self.known_at_end
        return between and not any(first <= key.frame < end for key in self.keyframes)

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
        for key in self.keyframes:
            if first <= key.frame < end:
                frames[key.frame - first] = key.image[0]
        return frames

    def whole(self) -> torch.Tensor:
        """Return all frames, for a VAE that cannot work on parts."""
        return self.frames(0, self.length)

    def mask(self, scale: int, *, low_noise: bool = False) -> torch.Tensor:
        """Return [1, 4, latent frames, height / scale, width / scale], 0 where a frame is known and 1 elsewhere.

        A keyframe has 1 - its strength, that for the low-noise expert if ``low_noise``. Pixel frame 4k is channel 3 of
        latent frame k, as in Wan's official image2video code; frame 0 is all four channels of the first.
        """
        known = torch.ones((1, 1, latent_frames(self.length) * FRAMES_PER_LATENT))
        if self.start is not None:
            # The first latent frame holds one video frame instead of four, so known frames count three more.
            known[:, :, : self.known_at_start + FRAMES_PER_LATENT - 1] = 0.0
        if self.end is not None:
            known[:, :, -self.known_at_end :] = 0.0
        for key in self.keyframes:
            strength = key.strength_low_noise if low_noise else key.strength
            end = key.frame + FRAMES_PER_LATENT
            known[:, :, end - 1 if key.frame else 0 : end] = 1.0 - strength  # frame 0 counts three more here too
        height, width = self.size.generated_height // scale, self.size.generated_width // scale
        mask = known.view(1, latent_frames(self.length), FRAMES_PER_LATENT).transpose(1, 2)
        return mask[..., None, None].repeat(1, 1, 1, height, width)

    def digest(self) -> str:
        """Return a SHA-256 of everything the encoder would see."""
        frames = [key.frame for key in self.keyframes]
        sha = hashlib.sha256(repr((self.shape, self.known_at_start, self.known_at_end, frames)).encode())
        for images in (self.start, self.end, *(key.image for key in self.keyframes)):
            if images is not None:
                sha.update(images.to("cpu", torch.float32).contiguous().numpy())
        return sha.hexdigest()

    def check_keyframes(self) -> None:
        """Refuse keyframes that the video cannot have.

        Raises:
            ValueError: one lies outside the video, or in a latent frame that another image has.
        """
        taken = dict.fromkeys(map(_latent_frame, range(self.known_at_start)), "start_image")
        taken |= dict.fromkeys(map(_latent_frame, range(self.length - self.known_at_end, self.length)), "end_image")
        for key in self.keyframes:
            asked = key.frame if key.asked is None else key.asked
            if not 0 <= asked < self.length:
                raise ValueError(
                    f"keyframes has an image at frame {asked}, but the video's frames are 0 to {self.length - 1}. "
                    "Set another frame in Wan FLF2V Keyframes, or a larger length."
                )
            place = _latent_frame(key.frame)
            if place in taken:
                moved = "" if asked == key.frame else f", which becomes {key.frame}"
                raise ValueError(
                    f"keyframes has an image at frame {asked}{moved}, which is in latent frame {place}, and so is "
                    f"{taken[place]}. Set another frame in Wan FLF2V Keyframes, or remove one of the two."
                )
            taken[place] = "another keyframe"


def _latent_frame(frame: int) -> int:
    """Return the latent frame that holds a video frame: the first holds one, the others four."""
    return -(-frame // FRAMES_PER_LATENT)
