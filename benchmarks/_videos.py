"""Videos between photographs on a real ComfyUI: by the bundled workflow, or by stock nodes; frames are kept exactly.

Clips are encoded and decoded by the training's form of ComfyUI's VAE, photographs and the ends of videos by ComfyUI's.
Pictures and clips are float32 [3, frames, height, width], 0...1; a picture has one frame.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bootstrap.server import ComfyServer
from ..client.comfy import ComfyClient
from ..contract.parameters import DEMO
from ..contract.workflow import Graph, graph_for
from ._cases import Case
from ._graphs import add_chained, add_node
from ._stage import run_graph

SIDE, LENGTH, STEPS, SHIFT = 128, 33, 6, 8.0  # the demo's own
KEY_FRAME = LENGTH // 2  # where a photograph on the way stands, a multiple of 4
_SAMPLER: dict[str, Any] = {"steps": STEPS, "cfg": 1.0, "sampler_name": "euler", "handover": "boundary"}
_STOCK_ENDS = ("positive", "negative", "vae", "width", "height", "length", "batch_size", "start_image", "end_image")
_CONDITIONING = ("positive", "negative", "latent_image")  # node 67's outputs, as node 57 calls them
# ComfyUI's own defaults (comfy_extras/nodes_easycache.py).
_EASYCACHE = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}


@dataclass(frozen=True)
class Setting:
    """How a video is made.

    ``sampler`` are inputs of node 57 other than 6 steps of euler at cfg 1 with the boundary's hand-over; ``shift`` is
    node 54's. ``stock_ends`` takes the stock node WanFirstLastFrameToVideo instead of node 67. ``chained_at`` takes two
    KSamplerAdvanced instead of node 57, and is the second's first step. ``easycache`` puts that node on both experts.
    """

    sampler: Mapping[str, Any] = field(default_factory=dict)
    shift: float = SHIFT
    length: int = LENGTH
    stock_ends: bool = False
    chained_at: int | None = None
    easycache: bool = False


class Videos:
    """What one ComfyUI makes of photographs, name -> file, which are uploaded to it."""

    def __init__(self, server: ComfyServer, photographs: Mapping[str, Path]) -> None:
        self._server = server
        self._uploaded = asyncio.run(upload(server, photographs))

    def through_vae(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return each photograph, fitted to the video's size by ComfyUI's own resize, and its decode."""
        graph = {"39": graph_for(DEMO)["39"]}
        for name in self._uploaded:
            scale = {"upscale_method": "bilinear", "width": SIDE, "height": SIDE, "crop": "center"}
            image = self._add_photograph(graph, name)
            fitted = add_node(graph, f"fitted_{name}", "ImageScale", image=image, **scale)
            _add_save(graph, f"photograph_{name}", fitted)
            _add_save(graph, f"decoded_{name}", _add_vae(graph, f"vae_{name}", fitted))
        run_graph(self._server, graph)
        return {name: (self._take(f"photograph_{name}"), self._take(f"decoded_{name}")) for name in self._uploaded}

    def clip_through_vae(self, clip: torch.Tensor) -> torch.Tensor:
        """Return a clip after encode and decode."""
        np.save(self._server.base_dir / "input" / "clip.npy", clip.movedim(0, -1).contiguous().numpy())
        graph = {"39": graph_for(DEMO)["39"]}
        frames = add_node(graph, "clip", "WanFLF2VMeasureLoadFrames", name="clip")
        encoded = add_node(graph, "encode", "WanFLF2VMeasureEncode", images=frames, vae=["39", 0])
        _add_save(graph, "decoded", add_node(graph, "decode", "WanFLF2VMeasureDecode", samples=encoded, vae=["39", 0]))
        run_graph(self._server, graph)
        return self._take("decoded")

    def make(self, cases: Sequence[Case], setting: Setting = Setting()) -> tuple[list[torch.Tensor], float]:
        """Return the video of each case, and the seconds that sampling took for one of them.

        Models are read and ends encoded before the clock starts, and latents are decoded after it has stopped.
        """
        graph = graph_for(DEMO)
        ends, sampler = graph.pop("67")["inputs"], {**graph.pop("57")["inputs"], **_SAMPLER, **setting.sampler}
        for unused in ("6", "62", "68", "73"):
            del graph[unused]
        graph["71"]["inputs"].update(width=SIDE, height=SIDE)
        graph["54"]["inputs"]["shift"] = setting.shift
        for number, case in enumerate(cases):
            conditioning = self._add_ends(graph, number, case, ends, setting)
            add_node(graph, f"encoded_{number}", "PreviewAny", source=conditioning)
        for model in ("54", "56"):
            add_node(graph, f"read_{model}", "PreviewAny", source=[model, 0])
        run_graph(self._server, graph)
        if setting.easycache:
            for name in ("model_high_noise", "model_low_noise"):
                sampler[name] = add_node(graph, f"easycache_{name}", "EasyCache", model=sampler[name], **_EASYCACHE)
        latents = [_add_sampler(graph, number, case, sampler, setting) for number, case in enumerate(cases)]
        for number, latent in enumerate(latents):
            add_node(graph, f"sampled_{number}", "PreviewAny", source=latent)
        began = time.perf_counter()
        run_graph(self._server, graph)
        seconds = (time.perf_counter() - began) / len(cases)
        for number, latent in enumerate(latents):
            frames = add_node(graph, f"decoded_{number}", "WanFLF2VMeasureDecode", samples=latent, vae=["39", 0])
            _add_save(graph, f"video_{number}", frames)
        run_graph(self._server, graph)
        return [self._take(f"video_{number}") for number in range(len(cases))], seconds

    def _add_ends(self, graph: Graph, number: int, case: Case, ends: Mapping[str, Any], setting: Setting) -> list[Any]:
        """Add the case's prompt and its photographs' conditioning, ``67_NUMBER``; ``ends`` are node 67's inputs."""
        inputs = {**ends, "length": setting.length}
        inputs["positive"] = add_node(graph, f"6_{number}", "CLIPTextEncode", text=case.word, clip=["38", 0])
        for end, name in (("start", case.start), ("end", case.end)):
            image = self._add_photograph(graph, name)
            inputs |= {f"{end}_image": image, f"{end}_mask": [image[0], 1]}
        if case.key is not None:
            key = {"images": self._add_photograph(graph, case.key), "frames": str(KEY_FRAME)}
            strengths = {"strength": 1.0, "strength_low_noise": 1.0}
            inputs["keyframes"] = add_node(graph, f"key_{number}", "WanFLF2VKeyframes", **key, **strengths)
        if setting.stock_ends:
            inputs = {name: inputs[name] for name in _STOCK_ENDS}
            return add_node(graph, f"67_{number}", "WanFirstLastFrameToVideo", **inputs)
        return add_node(graph, f"67_{number}", "WanFLF2VConditioning", **inputs)

    def _add_photograph(self, graph: Graph, name: str) -> list[Any]:
        return add_node(graph, f"photograph_of_{name}", "LoadImage", image=self._uploaded[name])

    def _take(self, name: str) -> torch.Tensor:
        """Read frames that the server saved, and remove the file."""
        path = self._server.base_dir / "output" / f"{name}.npy"
        frames = torch.from_numpy(np.load(path)).movedim(-1, 0)
        path.unlink()
        return frames


async def upload(server: ComfyServer, photographs: Mapping[str, Path]) -> dict[str, str]:
    """Upload files and return name -> what the server calls it."""
    async with ComfyClient(server.url) as client:
        return {name: await client.upload_image(path) for name, path in photographs.items()}


def _add_sampler(graph: Graph, number: int, case: Case, sampler: Mapping[str, Any], setting: Setting) -> list[Any]:
    """Add what samples a case whose conditioning is there; ``sampler`` are node 57's inputs."""
    conditioning = {name: [f"67_{number}", output] for output, name in enumerate(_CONDITIONING)}
    inputs = {**sampler, **conditioning, "noise_seed": case.seed}
    if setting.chained_at is None:
        return add_node(graph, f"57_{number}", "WanFLF2VSampler", **inputs)
    return [add_chained(graph, f"57_{number}", inputs, setting.chained_at), 0]


def _add_vae(graph: Graph, label: str, pixels: list[Any]) -> list[Any]:
    """Add an encode and a decode."""
    latent = add_node(graph, f"{label}_encode", "VAEEncode", pixels=pixels, vae=["39", 0])
    return add_node(graph, f"{label}_decode", "VAEDecode", samples=latent, vae=["39", 0])


def _add_save(graph: Graph, name: str, images: list[Any]) -> None:
    add_node(graph, f"save_{name}", "WanFLF2VMeasureSaveFrames", images=images, name=name)
