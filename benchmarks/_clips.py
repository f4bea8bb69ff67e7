"""Made-up clips for the bench of the detectors, with planted faults and with things that only look like faults.

A clip is a list of uint8 frames, [height, width, 3], with its start and end image and the faults in it. What moves is
procedural: textures that pan, zoom and shake, soft shapes, dissolves, cuts, fades, grain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..quality.fit import resized

Picture = NDArray[Any]
Scene = Callable[[float], Picture]
Range = tuple[int, int]  # first, end

WIDTH, HEIGHT = 320, 180
# The faults' sizes, at least: a flash's change of the mean luma (of 1), a channel's gain in linear RGB at an end, and
# its gain against green in between.
FLASH, END_GAIN, INNER_GAIN = 0.03, 0.06, 0.08
FREEZE = 4  # repeated frames; fewer are duplicates
_LUMA = np.array((0.2126, 0.7152, 0.0722), np.float32)
_MOVING = ("pan", "zoom", "shapes", "shake")
# What looks like a fault and is none.
_LOOKALIKES = ("bright_cut", "slow", "fade", "grain", "dissolve", "there_and_back", "cuts", "pulse")


@dataclass
class Clip:
    """Frames, the images that they should begin and end with, and what is wrong with them."""

    kind: str
    frames: list[Picture]
    start: Picture
    end: Picture
    flashes: list[Range] = field(default_factory=list)
    duplicates: set[int] = field(default_factory=set)
    freezes: list[Range] = field(default_factory=list)
    drift: bool = False
    cuts: tuple[int, ...] = ()


def make_clip(seed: int, width: int = WIDTH, height: int = HEIGHT) -> Clip:
    """Return the clip of a seed. Out of ten, three have no fault, six have one, one has two."""
    rng = np.random.default_rng([20050, seed])
    wanted = _faults(rng)
    # A duplicate shows only where something moves, so it is planted there; the other faults come in every clip.
    kinds = _MOVING if "duplicate" in wanted else (*_MOVING, *_LOOKALIKES)
    if wanted & {"inner_drift"}:  # a colour between two scenes has nothing to be compared with
        kinds = tuple(kind for kind in kinds if kind not in ("cuts", "bright_cut"))
    if not wanted:
        kinds = (*_MOVING[:2], *_LOOKALIKES)
    kind = str(rng.choice(kinds))
    length = int(rng.integers(33, 66))
    scene = _SCENES[kind](rng, width, height, length)
    grain = float(rng.uniform(3, 6)) if kind == "grain" else float(rng.choice([0, 0, 1, 2.5]))
    frames = [np.clip(scene(t) + _grain(rng, grain, width, height), 0, 1) for t in range(length)]
    clip = Clip(kind, frames, scene(0), scene(length - 1), cuts=getattr(scene, "cuts", ()))
    for name in sorted(wanted):
        _PLANTS[name](rng, clip)
    clip.frames = [_bytes(frame) for frame in clip.frames]
    clip.start, clip.end = _bytes(np.clip(clip.start, 0, 1)), _bytes(np.clip(clip.end, 0, 1))
    return clip


def _faults(rng: np.random.Generator) -> set[str]:
    names = ("flash", "duplicate", "freeze", "end_drift", "inner_drift")
    share = (0.25, 0.25, 0.25, 0.125, 0.125)
    count = rng.choice([0, 1, 2], p=[0.3, 0.6, 0.1])
    chosen = {str(name) for name in rng.choice(names, size=count, replace=False, p=share)}
    if chosen == {"end_drift", "inner_drift"}:
        chosen.discard("end_drift")
    return chosen


def _bytes(frame: Picture) -> Picture:
    return np.round(frame * 255).astype(np.uint8)


def _grain(rng: np.random.Generator, codes: float, width: int, height: int) -> Picture | float:
    """Return film-like noise: the same in all channels, and new in each frame."""
    if codes == 0:
        return 0.0
    return rng.normal(0, codes / 255, (height, width, 1)).astype(np.float32)


# Textures and scenes. A scene is a function of time in frames.


def _texture(rng: np.random.Generator, width: int, height: int, level: tuple[float, float] = (0.25, 0.65)) -> Picture:
    """Return a coloured texture of several octaves, about as rough as a photograph."""
    plane = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 8):
        cells = 2**octave
        grid = rng.normal(0, 1, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        grid = grid * 0.35 + grid[..., :1] * 0.65  # mostly grey, with some colour
        if cells < width:
            plane += (resized(grid, width, height) * 0.75 ** (octave - 2)).astype(np.float32)
    plane /= plane.std() + 1e-6
    base = rng.uniform(*level) + rng.uniform(-0.12, 0.12, 3)
    return np.clip(base + plane * rng.uniform(0.08, 0.2), 0.02, 0.98).astype(np.float32)


def _shifted(texture: Picture, x: float, y: float) -> Picture:
    """Move a texture, which repeats itself, by parts of a pixel."""
    for axis, move in ((1, x), (0, y)):
        whole = int(np.floor(move))
        part = np.float32(move - whole)
        rolled = np.roll(texture, whole, axis)
        texture = rolled if part == 0 else rolled * (1 - part) + np.roll(rolled, 1, axis) * part
    return texture


def _pan(
    rng: np.random.Generator, width: int, height: int, length: int, speed: float | None = None, **look: Any
) -> Scene:
    texture = _texture(rng, width, height, **look)
    pixels = rng.uniform(0.5, 6) if speed is None else speed
    angle = rng.uniform(0, 2 * np.pi)
    return lambda t: _shifted(texture, pixels * np.cos(angle) * t, pixels * np.sin(angle) * t)


def _zoom(rng: np.random.Generator, width: int, height: int, length: int) -> Scene:
    texture = _texture(rng, width * 2, height * 2)
    rate = float(rng.choice([-1, 1])) * rng.uniform(0.004, 0.0105)
    first = 1.0 if rate > 0 else np.exp(-rate * length)

    def scene(t: float) -> Picture:
        scale = min(2.0, first * np.exp(rate * t))
        h, w = height * 2 / scale / 2, width * 2 / scale / 2
        rows = height + (np.arange(height) + 0.5 - height / 2) * h / height
        columns = width + (np.arange(width) + 0.5 - width / 2) * w / width
        return _at(_at(texture, rows, 0), columns, 1)

    return scene


def _at(plane: Picture, places: Picture, axis: int) -> Picture:
    below = np.clip(np.floor(places).astype(int), 0, plane.shape[axis] - 2)
    part = (places - below).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
    return plane.take(below, axis) * (1 - part) + plane.take(below + 1, axis) * part


def _shapes(rng: np.random.Generator, width: int, height: int, length: int) -> Scene:
    """Soft discs that cross a still background."""
    background = _texture(rng, width, height)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    discs = []
    for _ in range(int(rng.integers(2, 6))):
        radius = rng.uniform(0.06, 0.2) * height
        place = rng.uniform((0, 0), (width, height))
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(1, 5)
        discs.append((radius, place, speed * np.array([np.cos(angle), np.sin(angle)]), rng.uniform(0.05, 0.95, 3)))

    def scene(t: float) -> Picture:
        frame = background
        for radius, place, velocity, colour in discs:
            centre = (place + velocity * t) % (width, height)
            inside = np.clip(radius - np.hypot(x - centre[0], y - centre[1]), 0, 1)[..., None]
            frame = frame * (1 - inside) + colour.astype(np.float32) * inside
        return frame

    return scene


def _shake(rng: np.random.Generator, width: int, height: int, length: int) -> Scene:
    """A pan from the hand: its speed and direction change all the time, and it never quite stops."""
    texture = _texture(rng, width, height)
    steps = rng.normal(0, 1, (length + 8, 2))
    steps = np.stack([np.convolve(steps[:, i], np.ones(6) / 6, "same") for i in (0, 1)], -1) * 2
    places = np.cumsum(steps + np.array((rng.uniform(1, 3), 0.3)), axis=0)
    return lambda t: _shifted(texture, *places[int(t)])


def _slow(rng: np.random.Generator, width: int, height: int, length: int) -> Scene:
    return _pan(rng, width, height, length, speed=rng.uniform(0.2, 0.5))


def _still(rng: np.random.Generator, width: int, height: int, length: int) -> Scene:
    texture = _texture(rng, width, height)
    return lambda t: texture


def _there_and_back(rng: np.random.Generator, width: int, height: int, length: int) -> Scene:
    """A pan that turns round smoothly, once or twice."""
    texture = _texture(rng, width, height)
    turns, reach, phase = rng.uniform(0.5, 1.5), rng.uniform(20, 60), rng.uniform(0.5, 2.5)
    return lambda t: _shifted(texture, reach * np.sin(phase + 2 * np.pi * turns * t / length), 0.15 * t)


def _fade(rng: np.random.Generator, width: int, height: int, length: int) -> Scene:
    """A moving scene that comes from or goes to black or white, over a part of the clip or all of it."""
    inside = _pan(rng, width, height, length)
    target = float(rng.choice([0.03, 0.95]))
    first = rng.uniform(0, 0.5) * length
    span = rng.uniform(0.3, 0.5) * length
    reverse = bool(rng.integers(2))

    def scene(t: float) -> Picture:
        part = np.float32(np.clip((t - first) / span, 0, 0.9))
        part = np.float32(0.9) - part if reverse else part
        return inside(t) * (1 - part) + target * part

    return scene


def _dissolve(rng: np.random.Generator, width: int, height: int, length: int) -> Scene:
    a, b = (_pan(rng, width, height, length, speed=rng.uniform(0.5, 3)) for _ in range(2))
    first, span = rng.uniform(0.1, 0.5) * length, rng.uniform(0.2, 0.5) * length

    def scene(t: float) -> Picture:
        part = np.float32(np.clip((t - first) / span, 0, 1))
        return a(t) * (1 - part) + b(t) * part

    return scene


def _cut(rng: np.random.Generator, width: int, height: int, length: int, bright: bool = True) -> Scene:
    """A dark scene, then a bright one; or the other way round."""
    levels = [(0.15, 0.3), (0.6, 0.8)] if bright else [(0.2, 0.7)] * 2
    if rng.integers(2):
        levels.reverse()
    scenes = [_pan(rng, width, height, length, level=level) for level in levels]
    return _Scenes(scenes, (int(rng.integers(8, length - 8)),))


def _cuts(rng: np.random.Generator, width: int, height: int, length: int) -> Scene:
    """Scenes of at least six frames each; some come back."""
    scenes = [_pan(rng, width, height, length, level=(0.2, 0.75)) for _ in range(3)]
    places = np.cumsum(rng.integers(6, 20, length))
    return _Scenes(scenes, tuple(int(place) for place in places if place < length))


class _Scenes:
    """Scenes in turn, with cuts between them."""

    def __init__(self, scenes: list[Scene], cuts: tuple[int, ...]) -> None:
        self._scenes, self.cuts = scenes, cuts

    def __call__(self, t: float) -> Picture:
        return self._scenes[int(np.searchsorted(self.cuts, t, "right")) % len(self._scenes)](t)


def _pulse(rng: np.random.Generator, width: int, height: int, length: int) -> Scene:
    """A light that grows and fades smoothly, twelve frames or more from one peak to the next."""
    inside = _pan(rng, width, height, length, speed=rng.uniform(0.5, 2))
    period, size = rng.uniform(12, 30), rng.uniform(0.05, 0.2)
    return lambda t: inside(t) * np.float32(1 - size + size * np.sin(2 * np.pi * t / period))


_SCENES: dict[str, Callable[..., Scene]] = {
    "pan": _pan,
    "zoom": _zoom,
    "shapes": _shapes,
    "shake": _shake,
    "bright_cut": _cut,
    "cuts": _cuts,
    "slow": _slow,
    "fade": _fade,
    "grain": _still,
    "dissolve": _dissolve,
    "there_and_back": _there_and_back,
    "pulse": _pulse,
}


# The faults.


def _free(rng: np.random.Generator, clip: Clip, length: int, margin: int = 5) -> int | None:
    """Return a place for a fault, away from the ends and from the faults that are there."""
    taken = {i for first, end in clip.flashes + clip.freezes for i in range(first, end)} | clip.duplicates
    taken |= {*clip.cuts}
    places = [
        place
        for place in range(margin, len(clip.frames) - length - margin)
        if not taken & set(range(place - margin, place + length + margin))
    ]
    return int(rng.choice(places)) if places else None


def _plant_flash(rng: np.random.Generator, clip: Clip) -> None:
    """Brighten or darken one to three frames and let them come back: a sum, or a factor."""
    for _ in range(int(rng.integers(1, 4))):
        length = int(rng.integers(1, 4))
        place = _free(rng, clip, length)
        if place is None:
            return
        size = float(np.exp(rng.uniform(np.log(FLASH), np.log(0.25))))
        as_factor, sign = bool(rng.integers(2)), float(rng.choice([-1, 1]))
        shape = rng.uniform(0.6, 1, length) if length > 1 else np.ones(1)
        shape /= shape.min()  # every frame of it is at least as bright as said
        made = [_flashed(clip.frames[place + i], sign * size * float(shape[i]), as_factor) for i in range(length)]
        if any(frame is None for frame in made):
            continue
        clip.flashes.append((place, place + length))
        clip.frames[place : place + length] = made


def _flashed(frame: Picture, size: float, as_factor: bool) -> Picture | None:
    """Change the mean luma by exactly ``size``; None where the picture has no room for that."""
    mean = float((frame @ _LUMA).mean())
    low, high = 0.0, 8.0
    for _ in range(30):
        middle = (low + high) / 2
        scale = np.sign(size) * middle
        made = np.clip(frame * (1 + scale) if as_factor else frame + scale, 0, 1)
        if abs(float((made @ _LUMA).mean()) - mean) < abs(size):
            low = middle
        else:
            high = middle
    return made if abs(abs(float((made @ _LUMA).mean()) - mean) - abs(size)) < 0.002 else None


def _plant_duplicate(rng: np.random.Generator, clip: Clip) -> None:
    """Show a frame two to four times at one to four places; what is hidden is lost."""
    for _ in range(int(rng.integers(1, 5))):
        length = int(rng.integers(1, FREEZE))
        place = _free(rng, clip, length)
        if place is None:
            return
        clip.duplicates |= set(range(place, place + length))
        clip.frames[place : place + length] = [clip.frames[place - 1]] * length


def _plant_freeze(rng: np.random.Generator, clip: Clip) -> None:
    length = int(rng.integers(FREEZE, 13))
    place = _free(rng, clip, length)
    if place is not None:
        clip.freezes.append((place, place + length))
        clip.frames[place : place + length] = [clip.frames[place - 1]] * length


def _plant_end_drift(rng: np.random.Generator, clip: Clip) -> None:
    """Let one to three channels drift away until the last frame, or come back from the first."""
    gains = _gains(rng, END_GAIN)
    reverse = bool(rng.integers(2))
    length = len(clip.frames)
    for i in range(length):
        part = i / (length - 1)
        clip.frames[i] = _with_gain(clip.frames[i], gains ** (1 - part if reverse else part))
    clip.drift = True


def _plant_inner_drift(rng: np.random.Generator, clip: Clip) -> None:
    """Let red or blue leave the colour balance between the ends and come back, over half of the clip or more."""
    gains = np.ones(3)
    gains[rng.choice([0, 2])] = np.exp(rng.choice([-1, 1]) * rng.uniform(np.log(1 + INNER_GAIN), np.log(1.4)))
    length = len(clip.frames)
    span = int(rng.uniform(0.5, 0.95) * length)
    first = int(rng.integers(1, length - span))
    for i in range(span):
        part = min(1.0, 2.5 * np.sin(np.pi * (i + 0.5) / span))
        clip.frames[first + i] = _with_gain(clip.frames[first + i], gains**part)
    clip.drift = True


def _gains(rng: np.random.Generator, least: float) -> Picture:
    gains = np.ones(3)
    for channel in rng.permutation(3)[: int(rng.integers(1, 4))]:
        gains[channel] = np.exp(rng.choice([-1, 1]) * rng.uniform(np.log(1 + least), np.log(1.4)))
    return gains


def _with_gain(frame: Picture, gains: Picture) -> Picture:
    """Multiply the channels in linear RGB."""
    linear = np.where(frame <= 0.04045, frame / 12.92, ((frame + 0.055) / 1.055) ** 2.4) * gains
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
    return np.clip(encoded, 0, 1).astype(np.float32)


_PLANTS: dict[str, Callable[[np.random.Generator, Clip], None]] = {
    "flash": _plant_flash,
    "duplicate": _plant_duplicate,
    "freeze": _plant_freeze,
    "end_drift": _plant_end_drift,
    "inner_drift": _plant_inner_drift,
}
