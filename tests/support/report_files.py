"""Videos and images for tests of the report: a picture that moves, written by the pack's own MP4 writer."""

import numpy as np
import torch
from PIL import Image
from wan_flf2v.quality.fit import resized
from wan_flf2v.video.settings import Settings, exact_rate
from wan_flf2v.video.writer import StreamWriter

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
