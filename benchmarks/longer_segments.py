"""Videos of several segments and loops by the demo's models: their frames, seams, loads, memory and colours."""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..bootstrap.server import ComfyServer
from ..client.comfy import ComfyClient
from ..client.run import run_graph as queue_and_wait
from ..contract.parameters import DEMO, END_IMAGE, START_IMAGE
from ..contract.workflow import Graph, graph_for
from ..quality.detectors import colour_shift
from ..quality.report import Report, make_report
from ..quality.seams import Joined
from ..quality.thresholds import Thresholds
from ..quality.video_file import open_video
from ._cases import held_out_photographs
from ._figures import Figure, Figures, Options
from ._graphs import add_node
from ._in_host import EXACT_MEMORY
from ._node_57 import notes
from ._stage import MANY_FRAMES, ONE_THREAD, add_one_model_twice, comfyui_alone, run_graph
from ._videos import SHIFT, SIDE, STEPS, upload

_SEGMENTS, _LENGTH, _LOOP_LENGTH = 4, 33, 81
_WORDS = ("dissolve", "slide left", "circle", "wipe right")
_MEMORY_SIZE = {"width": 832, "height": 480, "length": 81, "batch_size": 1}
_MEMORY_LATENT = 16 * 21 * 60 * 104  # values

Change = tuple[float, float, float]
"""By how much a frame's red, green and blue are off: 0.1 for 10 % more light."""


def run(options: Options) -> Figures:
    """Make a video of five photographs in three ways, and a loop; ``rounds`` is not used."""
    photographs = dict(list(held_out_photographs().items())[: _SEGMENTS + 1])
    with comfyui_alone(options, MANY_FRAMES) as server:
        names = list(asyncio.run(upload(server, photographs)).values())
        independent = _segments(names)
        reports, shifts = {}, {}
        for name, graph in (("", independent), ("_carried", _carried(independent))):
            for match in ("", "_matched"):
                path = _file(server, _matched(copy.deepcopy(graph)) if match else graph)
                reports[name + match] = _report(path, Joined(_SEGMENTS))
                shifts[name + match] = _shifts(server, path, names)
                seams = ", ".join(f"{seam.jump:.2f}" for seam in reports[name + match].seams)
                print(f"longer_segments{name}{match}: seams {seams}", flush=True)
        figures = {"segment_frames": _once(reports[""].video.frames, "frames", ("==", _SEGMENTS * (_LENGTH - 1) + 1))}
        figures["segment_frames_carried"] = _once(
            reports["_carried"].video.frames, "frames", ("==", _SEGMENTS * (_LENGTH - 1) + 1)
        )
        for key, report in reports.items():
            jumps = [seam.jump for seam in report.seams]
            limit = ("<=", 1.0) if key == "" else None
            figures[f"seam_jump{key}"] = Figure(max(jumps), "x", len(jumps), min(jumps), max(jumps), limit)
        for name in ("", "_carried"):
            plain, matched = drifts(shifts[name], shifts[name + "_matched"])
            figures[f"color_drift{name}"] = _once(plain, "of linear light")
            figures[f"color_drift{name}_matched"] = _once(matched, "of linear light", ("<=", plain / 2))
        figures |= _loop(server, names[0])
    with comfyui_alone(options, {**ONE_THREAD, **EXACT_MEMORY}) as server:
        return figures | _loads(server) | _memory(server)


def _segments(names: list[str], **inputs: Any) -> Graph:
    """Return the demo's graph on the segments between these images."""
    graph = graph_for(DEMO)
    graph["71"]["inputs"].update(width=SIDE, height=SIDE)
    graph["54"]["inputs"]["shift"] = SHIFT
    graph["57"]["inputs"].update(steps=STEPS, cfg=1.0, noise_seed=3)
    graph["67"]["inputs"]["length"] = _LENGTH
    graph["73"]["inputs"]["join_segments"] = True
    for unused in ("62", "68"):
        del graph[unused]
    images = {f"image_{n}": add_node(graph, f"image_{n}", "LoadImage", image=name) for n, name in enumerate(names, 1)}
    add_node(graph, "segments", "WanFLF2VSegments", prompts="\n".join(_WORDS[: len(names) - 1]), **images)
    for mask in ("start_mask", "end_mask"):
        del graph["67"]["inputs"][mask]
    graph["67"]["inputs"].update(start_image=["segments", 0], end_image=["segments", 1])
    graph["6"]["inputs"]["text"] = ["segments", 2]
    graph["57"]["inputs"].update(inputs)
    return graph


def _carried(segments: Graph) -> Graph:
    """Return the graph of the same segments one after another, each from the last frame of the one before."""
    graph = copy.deepcopy(segments)
    ends, sampler = graph.pop("67")["inputs"], graph.pop("57")["inputs"]
    encoder = graph.pop("6")["inputs"]
    del graph["segments"]
    start, latents = ["image_1", 0], {}
    for number in range(_SEGMENTS):
        text = add_node(graph, f"6_{number}", "CLIPTextEncode", **{**encoder, "text": _WORDS[number]})
        images = {"start_image": start, "end_image": [f"image_{number + 2}", 0]}
        made = add_node(graph, f"67_{number}", "WanFLF2VConditioning", **{**ends, **images, "positive": text})
        conditioning = {key: [made[0], n] for n, key in enumerate(("positive", "negative", "latent_image"))}
        latents[f"inputs.input{number}"] = add_node(
            graph, f"57_{number}", "WanFLF2VSampler", **{**sampler, **conditioning}
        )
        if number < _SEGMENTS - 1:
            inputs = {"latent": latents[f"inputs.input{number}"], "vae": ["39", 0], "frames": 1}
            start = add_node(graph, f"last_{number}", "WanFLF2VLastFrames", **inputs)
    add_node(graph, "latents", "CreateList", **latents)
    if "73" in graph:
        graph["73"]["inputs"]["latent"] = ["latents", 0]
    return graph


def _matched(graph: Graph) -> Graph:
    """Let the file's colours follow each segment's images, and those of a carried frame its end image."""
    settings = {"strength": 1.0, "fit": "crop", "background": "#000000"}
    for number in range(_SEGMENTS - 1):
        if f"67_{number + 1}" in graph:
            last = {"images": [f"last_{number}", 0], "end_image": [f"image_{number + 2}", 0]}
            add_node(graph, f"match_{number}", "WanFLF2VColorMatch", **settings, **last)
            graph[f"67_{number + 1}"]["inputs"]["start_image"] = [f"match_{number}", 1]
    images = {f"image_{n}": [f"image_{n}", 0] for n in range(1, _SEGMENTS + 2)}
    add_node(graph, "ends", "WanFLF2VSegments", prompts="", **images)
    ends = {"start_image": ["ends", 0], "end_image": ["ends", 1]}
    graph["73"]["inputs"]["color_match"] = add_node(graph, "match", "WanFLF2VColorMatch", **settings, **ends)
    return graph


def _file(server: ComfyServer, graph: Graph) -> Path:
    async def go() -> Path:
        async with ComfyClient(server.url) as client:
            (file,) = (await queue_and_wait(client, graph)).files
            return server.base_dir / "output" / file.subfolder / file.filename

    return asyncio.run(go())


def _report(path: Path, joined: Joined) -> Report:
    with open_video(path) as source:
        return make_report(source.frames, source.frame_rate, None, None, Thresholds(), joined=joined)


def drifts(plain: Sequence[Change | None], matched: Sequence[Change | None]) -> tuple[float, float]:
    """Return how far the colours of two files are off: the means of all channels' changes.

    A frame of which one of both has no reading is left out of both, so that they are of the same frames.

    Raises:
        RuntimeError: no frame is left.
    """
    pairs = [pair for pair in zip(plain, matched, strict=True) if None not in pair]
    if not pairs:
        raise RuntimeError("the colours of no frame could be read in both files")
    print(f"longer_segments: colours of {len(pairs)} of {len(plain)} frames compared", flush=True)
    of_plain, of_matched = np.abs(np.array(pairs, dtype=float)).mean((0, 2))
    return float(of_plain), float(of_matched)


def _shifts(server: ComfyServer, path: Path, names: list[str]) -> list[Change | None]:
    """Return how far the colours of each frame that shows an image are off, or None where they tell nothing."""
    graph: Graph = {}
    for number, name in enumerate(names):
        image = add_node(graph, f"load_{number}", "LoadImage", image=name)
        scale = {"upscale_method": "bilinear", "width": SIDE, "height": SIDE, "crop": "center"}
        fitted = add_node(graph, f"fitted_{number}", "ImageScale", image=image, **scale)
        add_node(graph, f"save_{number}", "WanFLF2VMeasureSaveFrames", images=fitted, name=f"image_{number}")
    run_graph(server, graph)
    with open_video(path) as source:
        frames = [picture for _, picture in source.frames]
    changes: list[Change | None] = []
    for number in range(len(names)):
        image = np.load(server.base_dir / "output" / f"image_{number}.npy")[0]
        shift = colour_shift(frames[number * (_LENGTH - 1)], image)
        changes.append(None if shift is None else shift.change)
    return changes


def _loop(server: ComfyServer, name: str) -> Figures:
    """Return the frames and the seam of a video that begins and ends on one image."""
    graph = _segments([name, name], noise_seed=5)
    graph["segments"]["inputs"]["prompts"] = "slide left"
    graph["67"]["inputs"]["length"] = _LOOP_LENGTH
    graph["73"]["inputs"]["skip_last_frames"] = 1
    report = _report(_file(server, graph), Joined(loop=True))
    return {
        "loop_frames": _once(report.video.frames, "frames", ("==", _LOOP_LENGTH - 1)),
        "loop_jump": _once(report.seams[0].jump, "x", ("<=", 1.0)),
    }


def _small(segments: int) -> Graph:
    """Return a graph of segments between the demo's images, small, up to node 57."""
    images = [str(END_IMAGE.default if number % 2 else START_IMAGE.default) for number in range(segments + 1)]
    graph = _segments(images)  # prepare_demo puts them there
    del graph["73"]
    graph["71"]["inputs"].update(width=64, height=64)
    graph["67"]["inputs"]["length"] = 9
    return graph


def _loads(server: ComfyServer) -> Figures:
    """Return how often an expert is loaded for the segments, between images and with a frame carried over."""
    figures = {}
    independent = _small(_SEGMENTS)
    add_one_model_twice(server, independent)
    for name, graph, end, wanted in (
        ("", copy.deepcopy(independent), "57", 2),
        ("_carried", _carried(independent), "latents", 2 * _SEGMENTS),
    ):
        add_node(graph, "end", "PreviewAny", source=[end, 0])
        notes(server)
        run_graph(server, graph)
        loads = sum(note.get("event") == "load" for note in notes(server))
        figures[f"segment_loads{name}"] = _once(loads, "loads", ("==", wanted))
    return figures


def _memory(server: ComfyServer) -> Figures:
    """Return how the peak of main memory grows with each further segment, beside a latent and its record.

    The model is a stand-in that costs next to nothing; the empty latents are there before.
    """
    few, many = 2, 10
    peaks = {}
    for segments in (few, few, many):  # the first reads the models
        graph = _small(1)
        for expert in ("high", "low"):
            inputs, key = graph["57"]["inputs"], f"model_{expert}_noise"
            inputs[key] = add_node(graph, f"stand_in_{expert}", "WanFLF2VMeasureStandIn", model=inputs[key])
        empty = {
            f"inputs.input{number}": add_node(graph, f"empty_{number}", "EmptyHunyuanLatentVideo", **_MEMORY_SIZE)
            for number in range(segments)
        }
        latents = add_node(graph, "latents", "CreateList", **empty)
        encoded = {"positive": ["6", 0], "negative": ["7", 0]}
        graph["57"]["inputs"].update(encoded, latent_image=latents, noise_seed=segments + len(peaks))
        sampler = graph.pop("57")
        for number, source in enumerate((latents, ["6", 0], ["7", 0])):
            add_node(graph, f"ready_{number}", "PreviewAny", source=source)
        run_graph(server, graph)
        process = Path(f"/proc/{server.pid}")
        (process / "clear_refs").write_text("5", encoding="utf-8")  # the peak begins where the memory stands now
        before = _status(process, "VmRSS")
        graph["57"] = sampler
        add_node(graph, "end", "PreviewAny", source=["57", 0])
        run_graph(server, graph)
        peaks[segments] = _status(process, "VmHWM") - before
    growth = (peaks[many] - peaks[few]) / (many - few)
    latent = _MEMORY_LATENT * np.dtype(np.float32).itemsize
    record = latent * (1 + STEPS // 2)  # the noise, and the high-noise expert's predictions
    return {
        "segment_memory": _once(growth / (latent + record), "of latent + record", ("<=", 1.0)),
        "segment_memory_mb": _once(growth / 1e6, "MB"),
    }


def _status(process: Path, key: str) -> int:
    """Return a line of Linux's ``/proc/PID/status`` in bytes."""
    text = (process / "status").read_text(encoding="utf-8")
    found = re.search(rf"^{key}:\s+(\d+) kB$", text, re.M)
    if found is None:
        raise RuntimeError(f"{process}/status has no {key}")
    return int(found[1]) * 1024


def _once(value: float, unit: str, limit: tuple[str, float] | None = None) -> Figure:
    return Figure(value, unit, 1, value, value, limit)
