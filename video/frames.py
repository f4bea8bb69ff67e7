"""The images before the encode (transparency, background colour, fit) and the frames after it (crop).

IMAGE tensors are float, [frames, height, width, channels], 0...1, as everywhere in ComfyUI; masks are
[frames, height, width] with 1 where the picture is transparent, as ComfyUI's LoadImage gives them.
"""

from __future__ import annotations

import comfy.utils
import torch

from ..quality.fit import Colour
from .geometry import VideoSize


def composite(image: torch.Tensor, mask: torch.Tensor | None, background: Colour) -> torch.Tensor:
    """Lay the transparent parts of ``image`` over ``background`` and return three channels.

    Transparency is a fourth channel of the image (alpha), or ``mask`` (1 - alpha), or both. A mask of zeros is
    opaque whatever its size: LoadImage gives 64x64 zeros for a picture without alpha.
    """
    alpha = image[..., 3:4] if image.shape[-1] == 4 else None
    if mask is not None and torch.count_nonzero(mask) > 0:
        opacity = 1.0 - _resize_mask(mask, image)
        alpha = opacity if alpha is None else alpha * opacity
    image = image[..., :3]
    if alpha is None:
        return image
    return image * alpha + image.new_tensor(background) * (1.0 - alpha)


def fit_to_video(image: torch.Tensor, size: VideoSize, fit: str, background: Colour) -> torch.Tensor:
    """Fit frames to the exact size by ``fit``, then extend their edges to the generated size.

    ``crop`` fills the frame and cuts what is outside, as the host's Wan nodes do; ``pad`` shows the whole picture
    on ``background``; ``stretch`` ignores the aspect ratio. The edges repeat their last pixels, at most 7 a side,
    which ``crop_to_exact`` removes again: a picture that already has the exact size is never resampled.
    """
    image = image[..., :3].movedim(-1, 1)
    if fit == "pad":
        image = _pad_to_aspect(image, size, background)
    else:
        crop = "center" if fit == "crop" else "disabled"
        image = comfy.utils.common_upscale(image, size.width, size.height, "bilinear", crop)
    extra_width, extra_height = size.generated_width - size.width, size.generated_height - size.height
    if extra_width or extra_height:
        left, top = extra_width // 2, extra_height // 2
        edges = (left, extra_width - left, top, extra_height - top)
        image = torch.nn.functional.pad(image, edges, mode="replicate")
    return image.movedim(1, -1)


def crop_to_exact(frames: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Cut [..., height, width, channels] down to its centre of ``width`` x ``height`` pixels (a view)."""
    top, left = (frames.shape[-3] - height) // 2, (frames.shape[-2] - width) // 2
    return frames[..., top : top + height, left : left + width, :]


def _pad_to_aspect(image: torch.Tensor, size: VideoSize, background: Colour) -> torch.Tensor:
    scale = min(size.width / image.shape[-1], size.height / image.shape[-2])
    width = min(size.width, max(1, round(image.shape[-1] * scale)))
    height = min(size.height, max(1, round(image.shape[-2] * scale)))
    inside = comfy.utils.common_upscale(image, width, height, "bilinear", "disabled")
    canvas = image.new_tensor(background).view(1, 3, 1, 1).repeat(image.shape[0], 1, size.height, size.width)
    top, left = (size.height - height) // 2, (size.width - width) // 2
    canvas[:, :, top : top + height, left : left + width] = inside
    return canvas


def _resize_mask(mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Return ``mask`` as [frames, height, width, 1] of ``image``'s size; one mask serves all frames."""
    mask = mask.reshape(-1, 1, mask.shape[-2], mask.shape[-1]).to(image)
    if mask.shape[-2:] != image.shape[1:3]:
        mask = torch.nn.functional.interpolate(mask, size=image.shape[1:3], mode="bilinear")
    if mask.shape[0] not in (1, image.shape[0]):
        raise ValueError(
            f"the mask has {mask.shape[0]} frames, but its image has {image.shape[0]}. "
            "Use one mask, or as many as the image has frames."
        )
    return mask.movedim(1, -1)
