"""A frame as an encoder takes it: RGB floats into FFmpeg's picture, rounded or dithered, as RGB or BT.709 YUV."""

from __future__ import annotations

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from .settings import Settings

# libswscale/swscale.h: SWS_ACCURATE_RND. Without it chroma is truncated (0.06 to 0.1 code too low on a photograph).
_SWS_ACCURATE_RND = 1 << 18
# libswscale takes 255 * 256 for white where RGB of 16 bits becomes luma and colour differences, but 65535 for opaque.
_SWS_WHITE, _FULL = 255 * 256, 65535
# Bayer's matrix of 8x8 thresholds, 0...63.
_BAYER_2 = np.array([[0, 2], [3, 1]])
_BAYER_4 = np.block([[4 * _BAYER_2, 4 * _BAYER_2 + 2], [4 * _BAYER_2 + 3, 4 * _BAYER_2 + 1]])
_BAYER = np.block([[4 * _BAYER_4, 4 * _BAYER_4 + 2], [4 * _BAYER_4 + 3, 4 * _BAYER_4 + 1]])

# Where a picture's samples lie in memory: the channels (0 red, 1 green, 2 blue, 3 alpha) in the order of its planes, or
# of the samples of a pixel in its only plane; and their type.
_PLANAR = {
    "gbrp": ((1, 2, 0), "u1"),
    "gbrap": ((1, 2, 0, 3), "u1"),
    "gbrp16le": ((1, 2, 0), "<u2"),
    "gbrap16le": ((1, 2, 0, 3), "<u2"),
}
_PACKED = {
    "bgr0": ((2, 1, 0, 3), "u1"),
    "bgra": ((2, 1, 0, 3), "u1"),
    "rgb24": ((0, 1, 2), "u1"),
    "rgba": ((0, 1, 2, 3), "u1"),
    "rgb48be": ((0, 1, 2), ">u2"),
    "rgba64be": ((0, 1, 2, 3), ">u2"),
}


def to_picture(frame: torch.Tensor, settings: Settings, width: int, height: int) -> av.VideoFrame:
    """Return a frame as the encoder takes it, scaled to this size."""
    chosen = settings.format
    # libswscale dithers what it makes luma and colour differences of, by Bayer too.
    if chosen.bits == 8 and not (settings.dithers and chosen.is_yuv):
        frame = to_bytes(frame, settings)
    if not chosen.is_yuv:
        return fill_picture(settings.pixels, frame)
    alpha = "a" if settings.has_alpha else ""
    depth = "16le" if frame.is_floating_point() else ""
    # libswscale halves the width of 8-bit colours by means of two pixels whatever it is told, that of 16 bits as told:
    # with BICUBIC, hard edges of colour ring (0.8 dB of primaries beside each other in 4:2:2).
    scaler = Interpolation.AREA if depth else Interpolation.BICUBIC
    picture = fill_picture(f"gbr{alpha}p{depth}", frame, white=_SWS_WHITE).reformat(
        width=width,
        height=height,
        format=settings.pixels,
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=int(scaler) | _SWS_ACCURATE_RND,
    )
    picture.colorspace, picture.color_range = Colorspace.ITU709, ColorRange.MPEG  # older PyAVs do not; ProRes reads it
    return picture


def to_bytes(frame: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Return a frame as bytes, [3 or 4, height, width]: dithered where the settings say so, or rounded."""
    if settings.dithers and frame.is_floating_point():
        return _dithered(frame)
    return to_planar_bytes(frame)


def fill_picture(pixels: str, frame: torch.Tensor, white: int = _FULL) -> av.VideoFrame:
    """Return a picture of RGB samples; where it has alpha and the frame has none, it is opaque.

    ``white`` is what 1.0 becomes in the colours of 16 bits.
    """
    _, height, width = frame.shape
    picture = av.VideoFrame(width, height, pixels)
    order, kind = _PLANAR.get(pixels) or _PACKED[pixels]
    wide = np.dtype(kind).itemsize > 1

    def samples(channel: int) -> np.ndarray | int:
        full = white if channel < 3 else _FULL
        if channel >= len(frame):
            return full if wide else 255
        values = frame[channel].numpy()
        if not wide:
            return values
        if values.dtype == np.uint8:
            return values * np.float32(full / 255) + np.float32(0.5)
        return values * np.float32(full) + np.float32(0.5)

    if pixels in _PLANAR:
        for plane, channel in zip(picture.planes, order, strict=True):
            rows = np.frombuffer(plane, kind).reshape(height, -1)
            rows[:, :width] = samples(channel)
        return picture
    rows = np.frombuffer(picture.planes[0], kind).reshape(height, -1)[:, : width * len(order)]
    for place, channel in enumerate(order):
        rows[:, place :: len(order)] = samples(channel)
    return picture


def _dithered(frame: torch.Tensor) -> torch.Tensor:
    """Turn 0...1 into 0...255, rounded up or down by Bayer's ordered thresholds; alpha is only rounded."""
    height, width = frame.shape[1:]
    repeats = (-(-height // 8), -(-width // 8))
    thresholds = torch.from_numpy(np.tile((_BAYER + 0.5) / 64, repeats)[:height, :width]).float()
    colours = frame[:3].mul(255.0).add_(thresholds).floor_().clamp_(0, 255).to(torch.uint8)
    return torch.cat([colours, to_planar_bytes(frame[3:])])


def to_planar_bytes(frames: torch.Tensor) -> torch.Tensor:
    """Turn 0...1 into 0...255, rounded and clipped: to uint8 of the same shape, same device; bytes stay as they are."""
    if frames.dtype == torch.uint8:
        return frames
    return frames.mul(255.0).round_().clamp_(0, 255).to(torch.uint8)
