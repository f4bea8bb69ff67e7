"""Cases of writing a clip inside a ComfyUI's own Python: ``python clip_cases.py COMFYUI RESULTS GROUP...``.

A run that ends early, in each way there is; what must come of it is in tests/host/test_clips.py.
"""

import gc
import json
import resource
import signal
import tempfile
import weakref
from fractions import Fraction
from functools import partial
from pathlib import Path
from unittest import mock

from vae_cases import RESULTS, new_vae, noise  # isort: skip -- first, it prepares the host
import av
import comfy.model_management
import comfy.utils
import torch
from wan_flf2v.video import spool
from wan_flf2v.video.clips import Recipe, Segment, write_segments
from wan_flf2v.video.color_match import ColorMatch
from wan_flf2v.video.edit import Edit
from wan_flf2v.video.formats import BY_NAME
from wan_flf2v.video.settings import Settings
from wan_flf2v.video.stream_writer import StreamWriter
from wan_flf2v.video.vae_decode import decode

LATENT_FRAMES, SIZE = 9, 64  # 33 frames


class Source:
    """The decoded parts of a clip, with something that happens before part ``at``."""

    def __init__(self, clip, at=None, happens=None):
        self.clip, self.at, self.happens, self.asked = clip, at, happens, 0

    def parts(self):
        for part in self.clip.parts:
            if self.asked == self.at:
                self.happens()
            self.asked += 1
            yield part


def end(folder, at, happens, matched=False):
    """Write a clip in which something happens, with its frames waiting for the last if ``matched``; return the end."""
    match = ColorMatch(noise(3, SIZE, SIZE), noise(3, SIZE, SIZE, seed=1), 1.0, folder) if matched else None
    (clip,) = decode(new_vae(), noise(1, 16, LATENT_FRAMES, SIZE // 8, SIZE // 8) * 2 - 1)
    source = Source(clip, at, happens)
    error = None
    try:
        new_writer = partial(StreamWriter, folder / "clip.mp4", SIZE, SIZE, Settings(Fraction(16), crf=1))
        write_segments(new_writer, BAR, [Segment(clip._replace(parts=source.parts()), match)])
    except BaseException as raised:  # noqa: BLE001 -- interrupts too
        error = type(raised).__name__
    finally:
        comfy.model_management.interrupt_current_processing(False)
    asked, held = source.asked, weakref.ref(source)
    gc.disable()  # what an error leaves in a cycle would hold the device's memory until it is collected
    del source, clip
    freed = held() is None
    gc.enable()
    return {"error": error, "asked": asked, "freed": freed, "files": [path.name for path in folder.iterdir()]}


def out_of_memory():
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def fail():
    raise RuntimeError("the decoder failed")


def no_more_disk():
    """Let no file of this process grow beyond what the first frames took, as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))


def frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def there_and_back(folder):
    """Write a clip there and back whose frames wait for the last one: both need a spool. Return what came of it."""
    match = ColorMatch(noise(3, SIZE, SIZE), noise(3, SIZE, SIZE, seed=1), 1.0, folder)
    (clip,) = decode(new_vae(), noise(1, 16, LATENT_FRAMES, SIZE // 8, SIZE // 8) * 2 - 1)
    new_writer = partial(StreamWriter, folder / "clip.mkv", SIZE, SIZE, Settings(Fraction(16), BY_NAME["mkv FFV1"]))
    write_segments(new_writer, BAR, [Segment(clip, match)], Recipe(Edit(ping_pong=True), folder=folder))
    with av.open(str(folder / "clip.mkv")) as container:
        shown = [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]
    returns = all(shown[number] == shown[-number] for number in range(1, len(shown)))
    return {
        "frames": len(shown),
        "different": len(set(shown)),
        "returns": returns,
        "files": len(list(folder.iterdir())),
    }


def no_room_for_both(folder):
    """Write that clip where there is room for one of its two spools. Return what it says and how much was decoded."""
    match = ColorMatch(noise(3, SIZE, SIZE), noise(3, SIZE, SIZE, seed=1), 1.0, folder)
    (clip,) = decode(new_vae(), noise(1, 16, LATENT_FRAMES, SIZE // 8, SIZE // 8) * 2 - 1)
    source = Source(clip)
    segment = Segment(clip._replace(parts=source.parts()), match)
    new_writer = partial(StreamWriter, folder / "clip.mkv", SIZE, SIZE, Settings(Fraction(16), BY_NAME["mkv FFV1"]))
    free = mock.Mock(free=clip.frames * 3 * SIZE * SIZE * 3 // 2)
    with mock.patch("shutil.disk_usage", return_value=free):
        try:
            write_segments(new_writer, BAR, [segment], Recipe(Edit(ping_pong=True), folder=folder))
        except OSError as error:
            return {"says": str(error), "asked": source.asked, "files": len(list(folder.iterdir()))}


BAR = comfy.utils.ProgressBar(1)
RUNS = {
    "whole": (None, None),
    "interrupt": (2, comfy.model_management.interrupt_current_processing),
    "error": (2, fail),
    "out of memory": (2, out_of_memory),
    "matched": (None, None, True),
    "matched interrupt": (2, comfy.model_management.interrupt_current_processing, True),
    "matched error": (2, fail, True),
    "matched out of memory": (2, out_of_memory, True),
    "disk": (0, no_more_disk),
    "matched disk": (0, no_more_disk, True),
}

if __name__ == "__main__":
    results = {}
    spool.LIMIT_BYTES = 4096  # less than a frame: they wait in a file
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        results["there and back"] = there_and_back(Path(folder))
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        results["no room for both"] = no_room_for_both(Path(folder))
    for name, run in RUNS.items():
        with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
            results[name] = end(Path(folder), *run)
            if results[name]["files"] == ["clip.mp4"]:
                results[name]["frames"] = frames(Path(folder) / "clip.mp4")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    Path(RESULTS).write_text(json.dumps(results))
