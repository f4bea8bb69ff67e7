"""Videos and images for tests of the report: a picture that moves, written by the pack's own MP4 writer."""

import numpy as np
import torch
from PIL import Image
from wan_flf2v.quality.fit import resized
from wan_flf2v.video.settings import Settings, exact_rate
from wan_flf2v.video.stream_writer import StreamWriter

WIDTH, HEIGHT, FRAMES = 160, 96, 33


def panned(frames=FRAMES, width=WIDTH, height=HEIGHT, seed=4):
    """Return uint8 frames of a smooth picture that moves by three pixels a frame."""
    rng = np.random.default_rng(seed)
    picture = resized(rng.uniform(30, 200, (height // 8, width // 8, 3)), width, height)
    return [np.roll(np.round(picture), 3 * i, axis=1).astype(np.uint8) for i in range(frames)]


def with_faults(frames):
    """Plant a flash at 8, a duplicate at 15 and a freeze at 20 to 25."""
    frames = list(frames)
    frames[8] = np.clip(frames[8].astype(int) + 30, 0, 255).astype(np.uint8)
    frames[15] = frames[14]
    frames[20:26] = [frames[19]] * 6
    return frames


def photographs_with_faults(start, end, frames=81, width=960, height=540):
    """Return frames between two photographs, files: a zoom into the first, a dissolve, a zoom out of the second.

    Planted in it are a flash at 14 and 15, duplicates at 30, 34 and 35, a freeze from 46 to 52, and a drift at the end.
    """
    clip = []
    for i in range(frames):
        part = i / (frames - 1)
        pictures = (_zoomed(start, part, width, height), _zoomed(end, 1 - part, width, height))
        mixed = np.clip(3 * part - 1, 0, 1)  # over the middle third
        clip.append(pictures[0] * (1 - mixed) + pictures[1] * mixed)
    for place, change in ((14, 30), (15, 17)):
        clip[place] = clip[place] + change
    for first, last in ((30, 30), (34, 35), (46, 52)):
        clip[first : last + 1] = [clip[first - 1]] * (last + 1 - first)
    for i, frame in enumerate(clip):
        gains = np.array((1.16, 1, 0.93)) ** np.clip(2 * i / (frames - 1) - 1, 0, 1)  # of linear light
        clip[i] = frame * gains ** (1 / 2.2)
    return [np.clip(np.round(frame), 0, 255).astype(np.uint8) for frame in clip]


def _zoomed(file, part, width, height):
    """Return a photograph cropped to the video's shape, and to nine tenths of that at ``part`` 1."""
    with Image.open(file) as image:
        shown = min(image.width, image.height * width / height) * (1 - 0.1 * part)
        left, top = (image.width - shown) / 2, (image.height - shown * height / width) / 2
        box = (left, top, left + shown, top + shown * height / width)
        pixels = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR, box)
    return np.asarray(pixels, np.float32)


def write_video(path, frames, crf=12, frame_rate=16):
    height, width = frames[0].shape[:2]
    with StreamWriter(path, width, height, Settings(exact_rate(frame_rate), crf=crf)) as writer:
        for frame in frames:
            writer.write(torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1))))
        writer.flush()


def save_ends(folder, frames, scale=1):
    """Save the first and the last frame as start.png and end.png, ``scale`` times as large."""
    for name, frame in (("start.png", frames[0]), ("end.png", frames[-1])):
        image = Image.fromarray(frame)
        image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(folder / name)
