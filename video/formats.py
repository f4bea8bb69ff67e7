"""The file formats that a video can be written in, as data, and which of them this machine's encoders can write."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from ctypes import CDLL
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

import av


@dataclass(frozen=True)
class Quality:
    """An encoder's own number for quality: its option's name, its default here, the lowest and the highest."""

    option: str
    default: int
    least: int
    most: int


@dataclass(frozen=True, eq=False)
class Format:
    """One file format.

    Attributes:
        name: what the user chooses; saved workflows have it, so it never changes.
        suffix: what a file's name ends with; empty for a folder.
        container: FFmpeg's name of the file format; empty for a folder of PNG files.
        encoder: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the pixel format of opaque videos; luma and colour differences are written as BT.709
            in limited range, RGB as sRGB in full range.
        alpha: the pixel format of videos with transparency; empty if transparency is dropped.
        bits: of each channel. Above 8, frames come as floats and not as bytes.
        quality: the quality that ``quality`` sets; None if there is nothing to set, or the node's ``crf`` sets it.
        crf: whether the node's ``crf`` sets the quality.
        presets: whether the encoder knows x264's presets.
        lookahead: how many frames the encoder sees ahead with its default preset; 0 is its own number.
        options: further options of the encoder.
        container_options: options of the container.
        tag: the codec's four letters in the file, where players ask for others than FFmpeg's.
        audio: FFmpeg's name of the encoder of sound; empty if the file has none.
        plays: whether browsers play it.
        clock: how many ticks a second has in which the file counts time; 0 is the frame rate's own.
        most_fps: the highest frame rate that players show; 0 is any.
        least: the smallest width and height.
        most: the largest; 0 is any.
        hardware: whether the encoder is a piece of hardware that may be missing.
        instead: the format to use where this one does not work.
    """

    name: str
    suffix: str
    container: str
    encoder: str
    pixels: str
    alpha: str = ""
    bits: int = 8
    quality: Quality | None = None
    crf: bool = False
    presets: bool = False
    lookahead: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    tag: str = ""
    audio: str = ""
    plays: bool = False
    clock: int = 0
    most_fps: int = 0
    least: int = 1
    most: int = 0
    hardware: bool = False
    instead: str = "mp4 H.264"

    @property
    def block(self) -> tuple[int, int]:
        """Width and height must be multiples of these: the pixels that share one sample of colour."""
        if not self.is_yuv:
            return 1, 1
        chroma = av.VideoFormat(self.pixels, 16, 16).components[1]
        return 16 // chroma.width, 16 // chroma.height

    @property
    def counts_loops(self) -> bool:
        """Whether the file says how often it plays."""
        return self.clock > 0

    @property
    def is_picture(self) -> bool:
        """Whether browsers show it as they show pictures, and not in a player."""
        return self.container in ("gif", "webp", "")

    @property
    def codec(self) -> str:
        """The name without the container."""
        return self.name.partition(" ")[2] or self.name

    @property
    def is_yuv(self) -> bool:
        """Whether colours are stored as luma and colour differences."""
        described = av.VideoFormat(self.pixels, 16, 16)
        return not (described.is_rgb or described.has_palette)


# use_metadata_tags keeps tags that MP4 and MOV have no name for; faststart moves them to the front of the file, where
# the ComfyUI frontend looks for a dropped video's workflow (it reads the first 64 MiB).
_TAGS_IN_FRONT = {"movflags": "use_metadata_tags+faststart"}
# x264 itself sees 40 frames ahead: it keeps half of an 81-frame video until the decode has ended. `bench lookahead` has
# what fewer cost.
# In 4:4:4 fewer cost more: the colours of a panned photograph lost 0.4 dB at equal crf.
_X264 = {"crf": True, "presets": True, "audio": "aac", "container_options": _TAGS_IN_FRONT}
_X264_420 = {**_X264, "lookahead": 22}
_X265 = {
    "quality": Quality("crf", 22, 0, 51),
    "presets": True,
    "options": {"x265-params": "log-level=error"},
    "container_options": _TAGS_IN_FRONT,
    "tag": "hvc1",  # QuickTime and Safari play no other
    "audio": "aac",
}
# SVT-AV1's presets go from 0 (slow) to 13. Ten bits cost its decoders nothing (they are in AV1's main profile), and the
# same size holds more.
_AV1 = {
    "least": 64,  # SVT-AV1 never ends a clip of 720x16 pixels
    "pixels": "yuv420p10le",
    "bits": 10,
    "quality": Quality("crf", 23, 1, 63),
    "options": {"preset": "8"},
    "plays": True,
}
# b=0 lets crf alone decide.
_VP9 = {"quality": Quality("crf", 20, 0, 63), "options": {"b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"}}
_PRORES = {"bits": 10, "audio": "pcm_s16le", "container_options": _TAGS_IN_FRONT}
_FFV1 = {"options": {"level": "3", "slices": "16", "slicecrc": "1", "g": "1"}, "audio": "flac"}
_PNG = {"options": {"pred": "paeth"}}  # not the default of every version; without, files are larger
_NVENC = {
    "quality": Quality("cq", 19, 1, 51),
    "options": {"preset": "p5", "rc": "vbr", "b": "0"},
    "container_options": _TAGS_IN_FRONT,
    "audio": "aac",
    "hardware": True,
}

FORMATS = (
    Format("mp4 H.264", ".mp4", "mp4", "libx264", "yuv420p", plays=True, **_X264_420),
    Format("mp4 H.264 4:4:4", ".mp4", "mp4", "libx264", "yuv444p", **_X264),
    Format("mp4 H.264 10-bit", ".mp4", "mp4", "libx264", "yuv420p10le", bits=10, **_X264_420),
    Format("mp4 H.265", ".mp4", "mp4", "libx265", "yuv420p", **_X265),
    Format("mp4 H.265 10-bit", ".mp4", "mp4", "libx265", "yuv420p10le", bits=10, instead="mp4 H.265", **_X265),
    Format("mp4 AV1", ".mp4", "mp4", "libsvtav1", container_options=_TAGS_IN_FRONT, audio="aac", **_AV1),
    Format("webm AV1", ".webm", "webm", "libsvtav1", audio="libopus", instead="webm VP9", **_AV1),
    Format("webm VP9", ".webm", "webm", "libvpx-vp9", "yuv420p", "yuva420p", audio="libopus", plays=True, **_VP9),
    Format("mov ProRes 422 HQ", ".mov", "mov", "prores_ks", "yuv422p10le",
           **_PRORES, options={"profile": "3", "vendor": "apl0"}),
    Format("mov ProRes 4444", ".mov", "mov", "prores_ks", "yuv444p10le", "yuva444p10le",
           **_PRORES, options={"profile": "4", "vendor": "apl0"}),
    Format("mkv FFV1", ".mkv", "matroska", "ffv1", "bgr0", "bgra", **_FFV1),
    Format("mkv FFV1 16-bit", ".mkv", "matroska", "ffv1", "gbrp16le", "gbrap16le", bits=16, **_FFV1),
    Format("gif", ".gif", "gif", "gif", "pal8", plays=True, clock=100, most_fps=50),
    Format("webp", ".webp", "webp", "libwebp", "bgra", "bgra", quality=Quality("quality", 80, 0, 100), plays=True,
           clock=1000, most_fps=90, most=16383),
    Format("png sequence", "", "", "png", "rgb24", "rgba", **_PNG),
    Format("png sequence 16-bit", "", "", "png", "rgb48be", "rgba64be", bits=16, **_PNG),
    Format("mp4 H.264 NVENC", ".mp4", "mp4", "h264_nvenc", "yuv420p", plays=True, **_NVENC),
    Format("mp4 H.265 NVENC", ".mp4", "mp4", "hevc_nvenc", "yuv420p", tag="hvc1", instead="mp4 H.265", **_NVENC),
    Format("mp4 AV1 NVENC", ".mp4", "mp4", "av1_nvenc", "yuv420p", plays=True, instead="mp4 AV1", **_NVENC),
)  # fmt: skip
BY_NAME = {one.name: one for one in FORMATS}
DEFAULT = FORMATS[0]
# A small H.264 file beside what no browser plays.
PREVIEW = DEFAULT

_PROBE_SIZE = 256, 256  # NVENC takes nothing smaller than 145x49
_PROBE_S = 60


def listed() -> list[str]:
    """Return the names of the formats to offer: those whose encoder has encoded a frame on this machine.

    It does not wait: encoders are tried from the first call on. Until that is known, the software formats are those
    that this build of FFmpeg has, and no hardware is offered.
    """
    software, hardware = (tried.result() if tried.done() else None for tried in map(_tried, (False, True)))
    if software is None:
        software = frozenset(one.name for one in FORMATS if _is_built(one) and not one.hardware)
    return [one.name for one in FORMATS if one.name in software | (hardware or frozenset())]


def works(chosen: Format) -> bool:
    """Return whether the encoder encodes a frame on this machine; it is tried once, and waited for.

    Where nothing could be tried, software that is built works.
    """
    known = _tried(chosen.hardware).result()
    return chosen.name in known if known is not None else not chosen.hardware and _is_built(chosen)


def error_of(name: str) -> str:
    """Say why the format of this name cannot be written and which one can; empty if it can."""
    chosen = BY_NAME.get(name)
    if chosen is None:
        near = max(listed(), key=lambda other: len(_words(other) & _words(name)))
        return f"format is {name!r}, but must be one of: {', '.join(listed())}. Use {near!r}."
    if works(chosen):
        return ""
    nearest = [chosen.instead, BY_NAME[chosen.instead].instead, *listed()]
    instead = next((other for other in nearest if works(BY_NAME[other])), None)
    advice = f"Use {instead!r}, which does." if instead is not None else "No other format does: install PyAV again."
    return f"format is {name!r}, but {chosen.encoder} does not work on this machine (PyAV {av.__version__}). {advice}"


def _words(name: str) -> set[str]:
    """Return the words of a name: "mp4 H.264" and "video/h264-mp4" have two in common."""
    return set(re.findall(r"[a-z0-9]+", name.lower().replace(".", "")))


@cache
def _is_built(chosen: Format) -> bool:
    """Return whether this build of FFmpeg has the encoder, for these pixels."""
    if chosen.encoder not in av.codecs_available:
        return False
    return chosen.pixels in {one.name for one in av.Codec(chosen.encoder, "w").video_formats or ()}


def _encodes(chosen: Format) -> bool:
    """Return whether the encoder encodes one black frame."""
    context = av.CodecContext.create(chosen.encoder, "w")
    context.width, context.height = _PROBE_SIZE
    context.pix_fmt, context.time_base = chosen.pixels, Fraction(1, 16)
    context.options = dict(chosen.options)
    frame = av.VideoFrame(*_PROBE_SIZE, chosen.pixels)
    frame.pts = 0
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    try:
        context.encode(frame)
        context.encode(None)
    except (av.error.FFmpegError, ValueError):
        return False
    return True


@cache
def _tried(hardware: bool) -> Future[frozenset[str] | None]:
    """Begin to try the formats of hardware, or all others; the result has those that encoded a frame, None if none did.

    Another process tries them: ComfyUI's opens no CUDA for it, SVT-AV1 makes none of its threads a real-time one, as it
    does for root, and an encoder that crashes or hangs hides only those of its kind that come after it.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="wan-flf2v encoders")
    tried = thread.submit(_try_elsewhere, hardware)
    thread.shutdown(wait=False)
    return tried


def _try_elsewhere(hardware: bool) -> frozenset[str] | None:
    try:
        found = subprocess.run(  # noqa: S603
            [sys.executable, __file__, "hardware" if hardware else "software"],
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # else Windows shows a console for a moment
        ).stdout
    except subprocess.TimeoutExpired as error:
        found = error.stdout or b""
    except OSError:
        found = b""
    return frozenset(found.decode("utf-8", "replace").splitlines()) or None


def _has_nvenc() -> bool:
    """Return whether there is a driver; without one, no encoder need be opened to find out."""
    try:
        CDLL("nvEncodeAPI64.dll" if sys.platform == "win32" else "libnvidia-encode.so.1")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    hardware = sys.argv[1] == "hardware"
    for one in FORMATS:
        if one.hardware == hardware and _is_built(one) and (not hardware or _has_nvenc()) and _encodes(one):
            print(one.name, flush=True)
