"""The settings of a video file: format, frame rate, quality, sound, tags; and the encoder's options that they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from . import tags
from .audio import Sound
from .formats import DEFAULT, Format

_NTSC_ROUNDED = 0.0005  # NTSC's rates are written with three decimals at most
DEFAULT_PRESET = "medium"  # x264's and x265's own
_LOOKAHEAD_CRF = 0.25
DITHERS = ("auto", "none", "ordered")


@dataclass(frozen=True)
class Settings:
    """How a video is written, beside its size.

    Attributes:
        frame_rate: frames per second, above 0.
        format: the file's format.
        crf: constant rate factor of the formats that say ``crf``, 1 to 51; 0 is lossless, in a profile that only some
            players know.
        quality: in the terms of the other formats' encoders; None is the format's own default.
        preset: how much time x264 and x265 take for a smaller file, ``ultrafast`` to ``placebo``; medium is theirs.
        dither: one of ``DITHERS``, for 8 bits: ``auto`` spreads the error of a GIF's palette and nothing else.
        loops: how often a GIF or WebP plays; 0 is for ever.
        tags: what is stored in the file; values that are not strings are stored as JSON.
        sound: as long as the video, or as a part of it that is repeated; or None.
        alpha: whether frames have a fourth channel.
        frames: how many will be written.
    """

    frame_rate: Fraction
    format: Format = DEFAULT
    crf: int = 19
    quality: int | None = None
    preset: str = DEFAULT_PRESET
    dither: str = "auto"
    loops: int = 0
    tags: tags.Tags = field(default_factory=dict)
    sound: Sound | None = None
    alpha: bool = False
    frames: int = 0

    @property
    def has_alpha(self) -> bool:
        """Whether the file has transparency."""
        return self.alpha and self.format.alpha != ""

    @property
    def pixels(self) -> str:
        """The pixel format of the file."""
        return self.format.alpha if self.has_alpha else self.format.pixels

    @property
    def dithers(self) -> bool:
        """Whether floats are dithered here to 8 bits."""
        return self.dither == "ordered" and self.format.bits == 8 and self.format.container != "gif"

    @property
    def takes_floats(self) -> bool:
        """Whether the file gains by frames that are floats and not bytes."""
        return self.format.bits > 8 or self.dithers

    def ticks(self, frame: int) -> int:
        """Return when a frame begins (0 is the first), in ticks of the format's ``clock``."""
        return round(frame * self.format.clock / self.frame_rate)

    @property
    def looks_twice(self) -> bool:
        """Whether the writer must see all frames, by ``look``, before the first is written."""
        return self.format.container == "gif"


def exact_rate(frame_rate: float) -> Fraction:
    """Return the frame rate as files hold it; those of NTSC, such as 23.976 and 29.97, become 24000/1001 and so on."""
    ntsc = Fraction(round(frame_rate * 1.001) * 1000, 1001)
    if ntsc and abs(frame_rate - ntsc) < _NTSC_ROUNDED:
        return ntsc
    return Fraction(frame_rate).limit_denominator(1001)


def encoder_options(settings: Settings) -> dict[str, str]:
    """Return FFmpeg's options of the format's encoder."""
    options, chosen = {}, settings.format
    sees_less = chosen.lookahead and settings.preset == DEFAULT_PRESET
    if chosen.crf:
        # A shorter look-ahead makes each crf worse by 0.03 to 0.3 dB. 1 stays 1: below it the file is lossless.
        options["crf"] = str(settings.crf - _LOOKAHEAD_CRF if sees_less and settings.crf > 1 else settings.crf)
    if chosen.quality is not None:
        quality = chosen.quality.default if settings.quality is None else settings.quality
        options[chosen.quality.option] = str(quality)
    if chosen.presets:
        options["preset"] = settings.preset
    if chosen.encoder == "libx265" and 0 < settings.frames < 3:
        # With B-frames x265 tells when to decode by the third frame; without one, its times are any number.
        options["bf"] = "0"
    if sees_less:
        options["rc-lookahead"] = str(chosen.lookahead)
    return {**options, **chosen.options}
