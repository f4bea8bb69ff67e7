"""Frames interpolated by ComfyUI's node during a decode, in a ComfyUI's own Python: ``python ... COMFYUI RESULTS``.

The models lie on "cpu:0", which ComfyUI takes for a device that is not its "cpu": models are loaded onto it, and one is
unloaded where another one asks for its memory. What must come of it is in tests/host/test_interpolation.py.
"""

import contextlib
import io
import itertools
import json
import sys
import tempfile
from fractions import Fraction
from functools import partial
from pathlib import Path

from vae_cases import DTYPES, LOG, RESULTS, noise, weights  # isort: skip -- first, it prepares the host
import av
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import numpy as np
import torch
from comfy_extras.nodes_frame_interpolation import FrameInterpolate, FrameInterpolationModelLoader
from rife import rife_weights
from wan_flf2v.video import formats
from wan_flf2v.video.clips import Recipe, Segment, clip_of_images, write_segments
from wan_flf2v.video.edit import Edit
from wan_flf2v.video.interpolation import Interpolation
from wan_flf2v.video.settings import Settings
from wan_flf2v.video.vae_decode import decode
from wan_flf2v.video.writer import new_writer

DEVICE, OFFLOADED = torch.device("cpu", 0), torch.device("cpu")
SAMPLES, WIDTH, HEIGHT = noise(1, 16, 5, 6, 8) * 2 - 1, 64, 48
FACTOR, SETTINGS = 3, Settings(Fraction(16), formats.BY_NAME["mkv FFV1 16-bit"])


def new_rife():
    model = FrameInterpolationModelLoader._detect_and_load(rife_weights()).eval()
    return comfy.model_patcher.ModelPatcher(model, load_device=DEVICE, offload_device=OFFLOADED)


def is_loaded(patcher):
    return any(known.model is patcher for known in comfy.model_management.current_loaded_models)


class Run:
    """One file from the latent, interpolated in the stream, and one of all frames by the host's nodes."""

    def __init__(self, rife):
        self.vae, self.rife = comfy.sd.VAE(sd=weights(4), device=DEVICE, dtype=DTYPES["fp32"]), rife
        self.parts_with_vae, self.calls, self.evictions, self.progress = 0, 0, 0, []

    def node(self, images):
        """Run the host's node, and count how often it takes the VAE's place."""
        self.calls += 1
        loaded = is_loaded(self.vae.patcher)
        made = FrameInterpolate.execute(self.rife, images, FACTOR).args[0]
        self.evictions += loaded and not is_loaded(self.vae.patcher)
        return made

    def parts(self, clip):
        for part in clip.parts:
            self.parts_with_vae += is_loaded(self.vae.patcher)
            yield part

    def streamed(self, folder):
        (clip,) = decode(self.vae, SAMPLES, floats=True, beside=[self.rife])
        recipe = Recipe(Edit(factor=FACTOR, interpolate=Interpolation(self.node)))
        return self._written(folder / "streamed.mkv", clip._replace(parts=self.parts(clip)), recipe)

    def whole(self, folder):
        images = self.node(self.vae.decode(SAMPLES)[0])
        return self._written(folder / "whole.mkv", clip_of_images(images, floats=True), Recipe())

    def _written(self, path, clip, recipe):
        LOG.take()
        comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: self.progress.append((value, total)))
        new = partial(new_writer, path, WIDTH, HEIGHT, SETTINGS)
        write_segments(new, comfy.utils.ProgressBar(recipe.edit.count(clip.frames)), [Segment(clip)], recipe)
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="gbrp16le") for frame in container.decode(video=0)])


def evicted(folder):
    """The interpolation's loading asks for so much memory that nothing may stay beside it."""
    rife = new_rife()
    rife.model.memory_used_forward = lambda shape, dtype: 1e18
    run = Run(rife)
    streamed = run.streamed(folder)
    counts = {"calls": run.calls, "evictions": run.evictions, "parts with the VAE": run.parts_with_vae}
    return {**counts, "frames": len(streamed), "alike": np.array_equal(streamed, run.whole(folder))}


def quiet(folder):
    run, printed = Run(new_rife()), io.StringIO()
    node, run.node = run.node, lambda images: print("a warning", file=sys.stderr) or node(images)
    with contextlib.redirect_stderr(printed):
        run.streamed(folder)
    return {"progress": list(run.progress), "printed": printed.getvalue()}


def overflow(folder):
    rife = new_rife()
    rife.model.blocks[4].lastconv[0].weight[:, 16].fill_(torch.inf)
    run = Run(rife)
    assert not torch.isfinite(run.node(run.vae.decode(SAMPLES)[0])).all()
    streamed, log = run.streamed(folder), LOG.take()
    return {"log": log, "alike": np.array_equal(streamed, run.whole(folder)), "log of the whole": LOG.take()}


def out_of_memory(folder, times):
    """The model's first layer fails as a full GPU does, so many times, from its second call on."""
    rife, failures = new_rife(), itertools.count()
    extract = rife.model.extract_features

    def failing(image):
        if 0 < next(failures) <= times:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return extract(image)

    rife.model.extract_features = failing
    run = Run(rife)
    try:
        streamed = run.streamed(folder)
    except torch.cuda.OutOfMemoryError:
        return {"error": True, "parts": run.parts_with_vae, "log": LOG.take(), "files": list(folder.iterdir())}
    log, parts = LOG.take(), run.parts_with_vae
    return {"alike": np.array_equal(streamed, run.whole(folder)), "parts": parts, "log": log}


CASES = {
    "evicted": evicted,
    "quiet": quiet,
    "overflow": overflow,
    "out of memory once": partial(out_of_memory, times=1),
    "out of memory for ever": partial(out_of_memory, times=1000),
}

if __name__ == "__main__":
    results = {}
    for name, case in CASES.items():
        with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
            results[name] = case(Path(folder))
    Path(RESULTS).write_text(json.dumps(results))
