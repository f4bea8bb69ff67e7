"""Video files as programs see them that are not this project's: ffmpeg's command line, and Pillow."""

import re
import subprocess
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
from PIL import Image

CHANNELS = {"mono": 1, "stereo": 2, "3.0": 3, "quad": 4, "5.0": 5, "5.1": 6, "6.1": 7, "7.1": 8}


def ffmpeg(*arguments):
    """Run ffmpeg and return what it printed as bytes and as text."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False)
    return done.stdout, done.stderr.decode("utf-8", "replace")


def described(path):
    """Return what ffmpeg says of a file's streams and tags."""
    return ffmpeg("-i", path)[1]


def decoded(path, pixels, size, decoder=None):
    """Return a video's frames as [frames, height, width, channels] of this packed pixel format, such as rgb24."""
    kind = np.uint16 if "48" in pixels or "64" in pixels else np.uint8
    width, height = size
    raw, errors = ffmpeg(
        *("-v", "error", *(("-c:v", decoder) if decoder else ()), "-i", path, "-fps_mode", "passthrough"),
        *("-sws_flags", "accurate_rnd+full_chroma_int+full_chroma_inp", "-f", "rawvideo", "-pix_fmt", pixels, "-"),
    )
    assert not errors, errors
    return np.frombuffer(raw, kind).reshape(-1, height, width, 4 if "a" in pixels else 3)


def samples(path):
    """Return a file's sound, float [samples, channels], and its rate."""
    rate, layout = re.search(r"Audio: .*?, (\d+) Hz, ([\w.]+)", described(path)).groups()
    raw, errors = ffmpeg("-v", "error", "-i", path, "-f", "f32le", "-")
    assert not errors, errors
    return np.frombuffer(raw, np.float32).reshape(-1, CHANNELS[layout]), int(rate)


def seconds(path):
    """Return how long a file's frames last by their packets, and how long a tick of its clock is."""
    raw, errors = ffmpeg("-v", "error", "-i", path, "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "-")
    assert not errors, errors
    tick = Fraction(re.search(r"#tb 0: (\S+)", raw.decode())[1])
    times = [tuple(map(int, row.split(",")[2:4])) for row in raw.decode().splitlines() if not row.startswith("#")]
    return (max(first + lasts for first, lasts in times) - min(first for first, _ in times)) * tick, tick


def pictures(path, mode):
    """Return an animation's frames by Pillow, [frames, height, width, channels], and their seconds each."""
    frames, seconds = [], []
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            frames.append(np.asarray(image.convert(mode)))
            seconds.append(image.info["duration"] / 1000)
    return np.stack(frames), seconds
