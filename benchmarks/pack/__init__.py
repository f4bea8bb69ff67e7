"""A ComfyUI node pack that measures: what reaches a model, and where this pack hands over. For benches and tests."""

from __future__ import annotations

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import comfy.patcher_extension
import folder_paths
import numpy as np
import torch

_NOTES: list[dict[str, Any]] = []


class _Node:
    CATEGORY, FUNCTION = "wan flf2v measuring", "run"

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:  # noqa: N802 -- the host's name
        """Run every time."""
        return float("nan")


class Probe(_Node):
    """Note each call of this model (sigma, and rows: 0 conditional, 1 unconditional), each load, run and clean-up."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "label": ("STRING", {})}})
    RETURN_TYPES = ("MODEL",)

    def run(self, model: Any, label: str) -> tuple[Any]:
        """Return the model with the notes added; the argument is not changed."""
        model = model.clone()
        events = comfy.patcher_extension.CallbacksMP
        for event, kind in (("load", events.ON_LOAD), ("pre_run", events.ON_PRE_RUN), ("cleanup", events.ON_CLEANUP)):
            model.add_callback_with_key(kind, "probe", _note_event(label, event))
        wrapper = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        model.add_wrapper_with_key(wrapper, "probe", _note_calls(label))
        return (model,)


def _note_event(label: str, event: str) -> Any:
    return lambda *_: _NOTES.append({"model": label, "event": event})


def _note_calls(label: str) -> Any:
    def on_call(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[-1] if isinstance(args[-1], dict) else kwargs["transformer_options"]
        sigma = float(options["sigmas"].max())
        _NOTES.append({"model": label, "sigma": sigma, "rows": list(options["cond_or_uncond"])})
        return executor(*args, **kwargs)

    return on_call


class Watch(_Node):
    """Note from now on each forward pass of a model's weights; the MODEL stays the same object, without a patch."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "label": ("STRING", {})}})
    RETURN_TYPES, OUTPUT_NODE = (), True

    def run(self, model: Any, label: str) -> dict[str, Any]:
        """Hook into the weights' module, once."""
        weights = model.model.diffusion_model
        if not hasattr(weights, "wan_flf2v_watched"):
            weights.wan_flf2v_watched = weights.register_forward_pre_hook(
                lambda *_: _NOTES.append({"model": label, "event": "forward"})
            )
        return {}


class StandIn(_Node):
    """A model that costs next to nothing, and a note of each prediction that a sampler gets from a run's record.

    The note has the milliseconds from the sampler's call to its return: ``wall_ms``, and ``cpu_ms`` of the sampler's
    thread.
    """

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})
    RETURN_TYPES = ("MODEL",)
    watched = False

    def run(self, model: Any) -> tuple[Any]:
        """Return the model with its forward pass replaced; the argument is not changed."""
        if not StandIn.watched:
            sampler = _pack_module("sampling.record").PhaseSampler
            sampler._call = _note_played(sampler._call)
            StandIn.watched = True
        model = model.clone()
        model.set_model_unet_function_wrapper(lambda apply_model, arguments: arguments["input"] * 0.5)
        return (model,)


def _note_played(call: Any) -> Any:
    def on_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        is_played = bool(self._left)
        wall, cpu = time.perf_counter(), time.thread_time()
        prediction = call(self, *args, **kwargs)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        if is_played:
            _NOTES.append({"event": "played", "wall_ms": wall * 1000, "cpu_ms": cpu * 1000})
        return prediction

    return on_call


class WriteNotes(_Node):
    """Write what was noted since the last time to ``<output>/<name>.json``, once these latents are there."""

    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {"name": ("STRING", {})},
            "optional": {"after": ("LATENT",), "and_after": ("LATENT",)},
        }
    )
    RETURN_TYPES, OUTPUT_NODE = (), True

    def run(self, name: str, after: Any = None, and_after: Any = None) -> dict[str, Any]:
        """Write and forget."""
        notes = list(_NOTES)
        _NOTES.clear()
        return _write(name, notes)


class Schedules(_Node):
    """Write sigmas and hand-over step of each case, [steps, shift, sampler, scheduler], to ``<output>/<name>.json``.

    What is asked is what node 57 asks; no weight is used, only the model's schedule.
    """

    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"model": ("MODEL",), "cases": ("STRING", {}), "name": ("STRING", {})}}
    )
    RETURN_TYPES, OUTPUT_NODE = (), True

    def run(self, model: Any, cases: str, name: str) -> dict[str, Any]:
        """Write the schedules."""
        mappings = import_module("nodes").NODE_CLASS_MAPPINGS  # ComfyUI's, not this pack's
        schedule = _pack_module("sampling.schedule")
        found = []
        for steps, shift, sampler, scheduler in json.loads(cases):
            (shifted,) = mappings["ModelSamplingSD3"]().patch(model, shift)
            settings = schedule.RunSettings(steps=steps, sampler_name=sampler, scheduler=scheduler)
            sigmas = settings.sigmas(shifted)
            step = settings.first_low_step(shifted.get_model_object("model_sampling"), sigmas)
            found.append({"sigmas": sigmas.tolist(), "step": step})
        return _write(name, found)


class LoadFrames(_Node):
    """Read ``<input>/<name>.npy``, float32 [frames, height, width, 3], 0...1, as an IMAGE."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"name": ("STRING", {})}})
    RETURN_TYPES = ("IMAGE",)

    def run(self, name: str) -> tuple[torch.Tensor]:
        """Return the frames."""
        path = Path(folder_paths.get_input_directory()) / f"{Path(name).name}.npy"
        return (torch.from_numpy(np.load(path)),)


class Encode(_Node):
    """VAE Encode by the training's form of WanVAE: several times as quick on a CPU, and equal within 1e-5."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"images": ("IMAGE",), "vae": ("VAE",)}})
    RETURN_TYPES = ("LATENT",)

    @torch.no_grad()
    def run(self, images: torch.Tensor, vae: Any) -> tuple[Any]:
        """Return the latent of one video; the VAE's weights are float32."""
        video = vae.process_input(images.movedim(-1, 0)[None])
        return ({"samples": _whole_clip(vae).encode(video)},)


class Decode(_Node):
    """VAE Decode by the training's form of WanVAE; see ``Encode``."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"samples": ("LATENT",), "vae": ("VAE",)}})
    RETURN_TYPES = ("IMAGE",)

    @torch.no_grad()
    def run(self, samples: Any, vae: Any) -> tuple[torch.Tensor]:
        """Return the frames of a latent of one video; the VAE's weights are float32."""
        video = vae.process_output(_whole_clip(vae).decode(samples["samples"].float()))
        return (video[0].movedim(0, -1),)


class SaveFrames(_Node):
    """Write an IMAGE exactly as it is to ``<output>/<name>.npy``, float32 [frames, height, width, 3]."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"images": ("IMAGE",), "name": ("STRING", {})}})
    RETURN_TYPES, OUTPUT_NODE = (), True

    def run(self, images: torch.Tensor, name: str) -> dict[str, Any]:
        """Write the frames."""
        np.save(Path(folder_paths.get_output_directory()) / f"{Path(name).name}.npy", images.float().cpu().numpy())
        return {}


class StartReading(_Node):
    """Note, from now on, in which files of the pack a function runs; everything that node 57 needs passes through."""

    _KINDS = ("MODEL", "MODEL", "CONDITIONING", "CONDITIONING", "LATENT")
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {f"input_{number}": (kind,) for number, kind in enumerate(cls._KINDS)}}
    )
    RETURN_TYPES = _KINDS
    called: Any = None

    def run(self, **inputs: Any) -> tuple[Any, ...]:
        """Start, and return the inputs."""
        StartReading.called = _pack_module("benchmarks._called_files").CalledFiles()
        StartReading.called.install()
        StartReading.called.start()
        return tuple(inputs[name] for name in sorted(inputs))


class WriteReading(_Node):
    """Write the files that were noted to ``<output>/<name>.json``."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"latent": ("LATENT",), "name": ("STRING", {})}})
    RETURN_TYPES, OUTPUT_NODE = (), True

    def run(self, latent: Any, name: str) -> dict[str, Any]:
        """Stop and write."""
        return _write(name, StartReading.called.stop())


def _whole_clip(vae: Any) -> Any:
    return _pack_module("training.whole_clip").WholeClipVAE(vae.first_stage_model)


def _pack_module(name: str) -> Any:
    """Return a module of this project's node pack as this ComfyUI has loaded it."""
    mappings = import_module("nodes").NODE_CLASS_MAPPINGS  # ComfyUI's, not this pack's
    return import_module(f"{mappings['WanFLF2VSampler'].__module__.rpartition('.nodes.')[0]}.{name}")


def _write(name: str, content: Any) -> dict[str, Any]:
    path = Path(folder_paths.get_output_directory()) / f"{Path(name).name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return {"ui": {"images": [{"filename": path.name, "subfolder": "", "type": "output"}]}}


NODE_CLASS_MAPPINGS = {
    f"WanFLF2VMeasure{cls.__name__}": cls
    for cls in (
        Decode,
        Encode,
        LoadFrames,
        Probe,
        SaveFrames,
        Schedules,
        StandIn,
        StartReading,
        Watch,
        WriteNotes,
        WriteReading,
    )
}
