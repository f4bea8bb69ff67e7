"""The plan as data: what a run with these settings and files will do and need, found without loading a weight."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import comfy.model_sampling
import torch

from ..contract.loaders import LOADERS
from ..sampling.gate import is_cfg_pp
from ..sampling.prelude import with_prelude
from ..sampling.resume import LIMIT_VARIABLE, limit_bytes
from ..sampling.schedule import RunSettings
from ..wan import PIXELS_PER_LATENT, PIXELS_PER_TOKEN, TRAIN_TIMESTEPS
from . import checks, memory
from .model_files import WAN_14B, ModelFile, read_file
from .prompts import ExpertFiles, LoaderFile, find_file

_EXPERT_FOLDERS = LOADERS["UnetLoaderGGUF"].folders
FOLDERS = {
    "high": _EXPERT_FOLDERS,
    "low": _EXPERT_FOLDERS,
    "prelude": _EXPERT_FOLDERS,
    "text_encoder": LOADERS["CLIPLoaderGGUF"].folders,
    "vae": ("vae",),
}
"""The files that a plan knows, and ComfyUI's kinds of folder for each; the GGUF pack's kinds may not be there."""


@dataclass(frozen=True)
class Video:
    """The video, as asked for and as generated: sizes in pixels (multiples of 16), ``frames`` (4n+1) of ``length``.

    Of several ``segments`` all else is told of one; each but the last has ``shared_frames`` that the next begins with.
    """

    width: int
    height: int
    generated_width: int
    generated_height: int
    length: int
    frames: int
    latent_frames: int
    frame_rate: float
    segments: int = 1
    shared_frames: int = 1

    @property
    def joined_frames(self) -> int:
        """How many frames all segments have in one file, which has shared ones once."""
        return (self.frames - self.shared_frames) * self.segments + self.shared_frames

    @property
    def seconds(self) -> float:
        """From the first frame to the last, which shows the end image: 81 frames at 16 per second are 5."""
        return (self.frames - 1) / self.frame_rate

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent frames, height and width."""
        return (
            self.latent_frames,
            self.generated_height // PIXELS_PER_LATENT,
            self.generated_width // PIXELS_PER_LATENT,
        )

    @property
    def tokens(self) -> int:
        """How many tokens the transformer attends to, each to all."""
        return (
            self.latent_frames
            * (self.generated_height // PIXELS_PER_TOKEN)
            * (self.generated_width // PIXELS_PER_TOKEN)
        )


@dataclass(frozen=True)
class Step:
    """One step: it starts at ``sigma`` (1 is pure noise) and runs on ``expert``: ``"prelude"``, ``"high"`` or
    ``"low"``."""

    index: int
    sigma: float
    timestep: float
    expert: str


@dataclass(frozen=True)
class ExpertPlan:
    """One expert: its file, its steps, and what it needs on the device. Sizes are bytes, ``None`` where unknown.

    ``activation_bytes`` is ComfyUI's own estimate for this machine's device and one prediction at a time,
    ``vram_bytes`` the sum with the weights.
    """

    expert: str
    file: str | None
    steps: int
    cfg: float
    forwards: int
    tflop: float
    weight_bytes: int | None
    weight_bytes_by_dtype: dict[str, int]
    activation_bytes: int | None
    vram_bytes: int | None


@dataclass(frozen=True)
class Plan:
    """What a run will do. TFLOP are 10^12 operations.

    A step takes two forward passes, with and without the prompt, or one if cfg is 1; samplers that call the model more
    than once in a step (heun, dpm_2) take more. ``assumed_14b`` says that no file told the model's dimensions, so
    those of Wan 14B were taken. ``device`` is torch's name of what models run on here (``"cuda:0"``). ``ram_bytes`` is
    the size of the files chosen whose weights ComfyUI copies to main memory, ``mapped_bytes`` that of the files that it
    maps, which need no main memory. ``record_bytes`` is the main memory that keeps the high-noise expert's
    predictions for the low-noise expert's phase; it is for a sampler that calls the model once in a step.
    ``handover_step`` counts the prelude's steps, which come first.
    """

    video: Video
    sampling: RunSettings
    steps: tuple[Step, ...]
    final_sigma: float
    handover_step: int
    handover_sigma: float
    assumed_14b: bool
    tflop_per_forward: float
    tflop: float
    device: str
    experts: tuple[ExpertPlan, ...]
    ram_bytes: int | None
    mapped_bytes: int
    record_bytes: int
    available_ram_bytes: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    def count(self, expert: str) -> int:
        """Return how many steps run on an expert."""
        return sum(step.expert == expert for step in self.steps)

    def to_json(self) -> str:
        """Return all of it as a JSON object with the names used here."""
        plan = asdict(self)
        plan["video"] |= {
            name: getattr(self.video, name) for name in ("seconds", "latent_shape", "tokens", "joined_frames")
        }
        return json.dumps(plan, indent=2, ensure_ascii=False)


class _ScheduleOnly:
    """The part of a MODEL that ComfyUI's KSampler reads for its sigmas: a sampling schedule on the CPU."""

    load_device = torch.device("cpu")
    model_options: dict[str, Any] = {}

    def __init__(self, shift: float) -> None:
        flow = type("ModelSampling", (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST), {})
        self._model_sampling = flow()
        self._model_sampling.set_parameters(shift=shift, multiplier=TRAIN_TIMESTEPS)  # as ModelSamplingSD3 does

    def get_model_object(self, _name: str) -> Any:
        return self._model_sampling


def make_plan(names: dict[str, str | None], video: Video, sampling: RunSettings, output_folder: Path) -> Plan:
    """Plan a run.

    Args:
        names: the file chosen for each key of ``FOLDERS``, as ComfyUI lists it; ``None`` where none was chosen.
        video: the video to make.
        sampling: the sampler's settings.
        output_folder: the folder of the video.

    Raises:
        ValueError: ``handover_step`` lies outside the schedule, the scheduler cannot make one of so few steps, or the
            prelude does not fit it; or ``WAN_FLF2V_RESUME_MB`` is no number.
    """
    steps, final_sigma = plan_steps(sampling)
    first_low = sum(step.expert != "low" for step in steps)
    first = [] if sampling.prelude == "none" else ["prelude"]
    slots = [*first, "high", "low"]
    files, errors = _read({key: name for key, name in names.items() if key in slots or key not in checks.SLOTS})
    experts = tuple(_expert(slot, names[slot], files.get(slot), steps, sampling, video) for slot in slots)
    shape = next((file.wan for slot, file in files.items() if slot in checks.SLOTS and file.wan), None)
    # ComfyUI samples in float32 (comfy/samplers.py, outer_sample).
    latent_bytes = 4 * (shape or WAN_14B).out_channels * math.prod(video.latent_shape)
    sizes = {file.path: file.size for file in files.values()}
    mapped = sum(size for path, size in sizes.items() if checks.is_mapped(path))
    ram = sum(sizes.values()) - mapped
    experts_read = [_files(slot, names[slot], files.get(slot)) for slot in ("high", "low", *first)]
    found = checks.check_settings(experts_read, sampling, images=True, frames=video.frames, loras_known=False)
    found.merge(checks.check_machine(ram, output_folder))
    recorded = sum(step.expert == "high" for step in steps) if first_low < len(steps) else 0
    record = recorded * latent_bytes * _latents_per_call(sampling)
    return Plan(
        video=video,
        sampling=sampling,
        steps=steps,
        final_sigma=final_sigma,
        handover_step=first_low,
        handover_sigma=steps[first_low].sigma if first_low < len(steps) else final_sigma,
        assumed_14b=shape is None,
        tflop_per_forward=(shape or WAN_14B).forward_tflop(video.tokens),
        tflop=sum(expert.tflop for expert in experts),
        device=memory.device_name(),
        experts=experts,
        ram_bytes=ram if sizes else None,
        mapped_bytes=mapped,
        record_bytes=record,
        available_ram_bytes=checks.available_ram(),
        errors=(*errors, *found.errors),
        warnings=(*found.warnings, *_does_not_fit(record, latent_bytes, video, sampling)),
    )


def _does_not_fit(record: int, latent: int, video: Video, sampling: RunSettings) -> list[str]:
    """Warn if the run leaves more than is kept for a later one; both sizes are bytes of one segment."""
    segments = video.segments if video.shared_frames == 1 else 1  # else one run after another
    # The noise and the latent that a run begins with; the latents that segments and preludes leave.
    others = 2 + (segments > 1) + (sampling.prelude != "none")
    needed, limit = segments * (record + others * latent), limit_bytes()
    if not record or not 0 < limit < needed:
        return []
    of = f" of {segments} segments" if segments > 1 else ""
    return [
        f"What the high-noise steps{of} give takes {math.ceil(needed / 10**6)} MB, but {limit // 10**6} MB at most are "
        "kept for a later run: after an edit of the low-noise side or an interrupt, steps are run again. To keep all, "
        f"set the environment variable {LIMIT_VARIABLE} to {math.ceil(needed / 10**8) * 100} and restart ComfyUI."
    ]


def _latents_per_call(sampling: RunSettings) -> int:
    """Return how many latents the record keeps of a call: cfg_pp samplers read more than the guided prediction."""
    if not is_cfg_pp(sampling.sampler_name):
        return 1
    return 2 if sampling.cfg == 1 else 3


def plan_steps(sampling: RunSettings) -> tuple[tuple[Step, ...], float]:
    """Return the steps, and the sigma at which the last one ends; the shifts must be known.

    Raises:
        ValueError: ``handover_step`` lies outside the schedule, the scheduler cannot make one of so few steps, or the
            prelude does not fit it.
    """
    model = _ScheduleOnly(sampling.shift)
    sigmas = sampling.sigmas(model)
    model_sampling = model.get_model_object("model_sampling")
    if sampling.prelude == "none":
        prelude, first_low = 0, sampling.first_low_step(model_sampling, sigmas)
    else:
        own = _ScheduleOnly(sampling.prelude_shift)
        sigmas, prelude, first_low = with_prelude(sampling, own, model_sampling, sigmas)
    *starts, final_sigma = zip(sigmas.tolist(), model_sampling.timestep(sigmas).tolist(), strict=True)
    steps = (
        Step(index, sigma, timestep, "prelude" if index < prelude else "high" if index < first_low else "low")
        for index, (sigma, timestep) in enumerate(starts)
    )
    return tuple(steps), final_sigma[0]


def _read(names: dict[str, str | None]) -> tuple[dict[str, ModelFile], list[str]]:
    """Return the headers of the files that exist, and what is wrong with the others."""
    files, errors = {}, []
    for key, name in names.items():
        path = find_file(name, FOLDERS[key]) if name else None
        try:
            if path is not None:
                files[key] = read_file(path)
        except (OSError, ValueError) as error:
            errors.append(str(error))
    return files, errors


def _files(slot: str, name: str | None, file: ModelFile | None) -> checks.CheckedExpert:
    """Return an expert as preflight knows it from a prompt; the plan has no LoRAs."""
    path, titles = (file.path, file.titles) if file else (None, ())
    loader = LoaderFile("", checks.SLOTS[slot], name, FOLDERS[slot], path, titles) if name else None
    return checks.CheckedExpert(slot, ExpertFiles(loader, ()), file.wan.image_channels if file and file.wan else None)


def _expert(
    slot: str, name: str | None, file: ModelFile | None, steps: tuple[Step, ...], sampling: RunSettings, video: Video
) -> ExpertPlan:
    cfg = {"prelude": sampling.prelude_cfg, "high": sampling.cfg, "low": sampling.cfg_low}[slot]
    own = sum(step.expert == slot for step in steps)
    forwards = own * (1 if cfg == 1 else 2)  # ComfyUI skips the negative prompt at cfg 1
    shape = (file.wan if file else None) or WAN_14B
    activations = memory.activation_bytes(file, (1, shape.out_channels, *video.latent_shape)) if file else None
    weights = file.weight_bytes if file else None
    return ExpertPlan(
        expert=slot,
        file=name,
        steps=own,
        cfg=cfg,
        forwards=forwards,
        tflop=forwards * shape.forward_tflop(video.tokens),
        weight_bytes=weights,
        weight_bytes_by_dtype=file.bytes_by_dtype if file else {},
        activation_bytes=activations,
        vram_bytes=None if weights is None or activations is None else weights + activations,
    )
