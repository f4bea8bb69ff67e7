"""Preflight checks: what does not fit together, with its text, and when it is checked.

A prompt is checked before it is queued, by headers and names alone. A run is checked before its weights are loaded. An
error is what cannot work, or would silently give another video than was asked for. All else is a warning.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import comfy.memory_management
import psutil

from ..contract.downloads import VARIANTS, where_to_get
from ..sampling.schedule import RunSettings
from ..wan import FRAMES_PER_LATENT, TRAINED_FRAMES
from .model_files import SAFETENSORS, ModelFile, expert_of, read_file
from .prompts import (
    ExpertFiles,
    LoaderFile,
    Prompt,
    class_type,
    expert_files,
    has_prelude,
    images_connected,
    loaded_files,
    missing_files,
    number,
    output_folder,
    title,
    video_length,
)

SLOTS = {"high": "model_high_noise", "low": "model_low_noise", "prelude": "model_prelude"}
"""The experts, and the sampler's inputs for them. Not every run has a prelude."""
_EXPERTS = ("high", "low")
_OTHER = {"high": "low", "low": "high"}
# Step-distilled files are made for 4 steps, some for up to 8, without guidance (lightx2v/Wan2.2-Lightning).
_FEW_STEPS = 8
_MIB, _GIB = 1 << 20, 1 << 30
_FULL_DISK, _LOW_DISK = 64 * _MIB, 1 * _GIB  # a finished video has tens of MiB
# Nodes with both experts, as inputs of these names.
_SAMPLERS = ("WanFLF2VSampler", "WanFLF2VGuider")


class Finding(str):
    """What was found, in a text that can be read alone.

    ``node_id`` is the node of the prompt that it is about; ``None`` if it is about the run as a whole.
    """

    node_id: str | None

    def __new__(cls, text: str, node_id: str | None = None) -> Finding:
        """Return the text with its node."""
        finding = super().__new__(cls, text)
        finding.node_id = node_id
        return finding


@dataclass
class Findings:
    """What was found: ``errors`` stop the run, ``warnings`` do not."""

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def merge(self, other: Findings) -> None:
        """Add what ``other`` has and this one has not."""
        self.errors += [text for text in other.errors if text not in self.errors]
        self.warnings += [text for text in other.warnings if text not in self.warnings]


class CheckedExpert(NamedTuple):
    """A model of a run: its ``slot`` (a key of ``SLOTS``), its files, its input channels for images."""

    slot: str
    files: ExpertFiles
    image_channels: int | None

    @property
    def file(self) -> str | None:
        """The checkpoint's name, if it is known."""
        return self.files.loader.name if self.files.loader else None

    @property
    def path(self) -> Path | None:
        """Where the checkpoint lies, if that is known."""
        return self.files.loader.path if self.files.loader else None

    @property
    def node_id(self) -> str | None:
        """The loader of the checkpoint, if it is known."""
        return self.files.loader.node_id if self.files.loader else None

    @property
    def noise(self) -> str:
        """Which of Wan 2.2's models belongs there: ``"high"`` or ``"low"``."""
        return "low" if self.slot == "low" else "high"

    @property
    def label(self) -> str:
        """The input with its file: ``model_high_noise (wan2.2….safetensors)``."""
        return SLOTS[self.slot] + (f" ({self.file})" if self.file else "")


def check_settings(
    experts: Sequence[CheckedExpert],
    run: RunSettings,
    *,
    images: bool,
    frames: int | None,
    length_node: str | None = None,
    loras_known: bool = True,
    same_model: bool = False,
) -> Findings:
    """Check the experts against each other and against what the run was asked for.

    Args:
        experts: high, low, and the prelude's model if there is a prelude.
        run: its ``steps`` and cfgs are checked where they are known.
        images: whether a first or last image is connected.
        frames: of the video, ``None`` where they are not known.
        length_node: the node that they are set in, if it is known.
        loras_known: whether the experts' LoRAs are all there are.
        same_model: whether both are one object in memory, whatever their files are called.
    """
    errors = [_text_to_video(expert) for expert in experts if images and expert.image_channels == 0]
    warnings = []
    high, low, *prelude = experts
    wrong = [expert for expert in experts if expert.files.loader and _is_other(expert, expert.files.loader)]
    if wrong[:2] == [high, low]:
        errors.append(
            Finding(
                f"The experts are swapped: model_high_noise has {high.file}, model_low_noise has {low.file}. Exchange "
                "the two files.",
                high.node_id,
            )
        )
    else:
        warnings += [_other_expert(expert, expert.files.loader) for expert in wrong if expert.files.loader]
    for expert in experts:
        loras = [lora for lora in expert.files.loras if _is_other(expert, lora)]
        warnings += [_other_expert(expert, lora) for lora in loras]
    if same_model or (high.path is not None and high.path == low.path):
        warnings.append(
            Finding(
                f"model_high_noise and model_low_noise are the same{f' ({high.file})' if high.file else ''}. That is "
                "right for Wan 2.1, which has one model; of Wan 2.2, load the high-noise file in one and the low-noise "
                "file in the other.",
                low.node_id,
            )
        )
    warnings += _distilled(high, low, run, loras_known)
    warnings += [_distilled_prelude(expert) for expert in prelude if expert.files.distilled]
    if frames is not None and frames > TRAINED_FRAMES:
        warnings.append(
            Finding(
                f"The video has {frames} frames, but Wan 2.2 was trained on up to {TRAINED_FRAMES}: longer ones "
                f"tend to loop or to burn out. Set length to {TRAINED_FRAMES}, or join several videos.",
                length_node,
            )
        )
    return Findings(errors, warnings)


def check_machine(ram_needed: int, folder: Path) -> Findings:
    """Check main memory for ``ram_needed`` bytes, and the disk of the output ``folder``."""
    found = Findings()
    ram = available_ram()
    if ram < ram_needed:
        smallest = sum(file.size for file in VARIANTS["gguf"].files)
        smaller = f", or use the GGUF files, which need {smallest / _GIB:.0f} GiB" if ram_needed > smallest else ""
        found.warnings.append(
            Finding(
                f"The model files need about {ram_needed / _GIB:.1f} GiB of main memory, but only {ram / _GIB:.1f} GiB "
                f"are available: the run may become very slow or end ComfyUI. Close other programs{smaller}."
            )
        )
    free = free_disk(folder)
    if free is not None and free < _LOW_DISK:
        text = f"The output folder {folder} has {free / _MIB:.0f} MiB of free disk space"
        if free < _FULL_DISK:
            found.errors.append(
                Finding(
                    f"{text}; a video needs at least {_FULL_DISK // _MIB} MiB. Delete something there, or start "
                    "ComfyUI with another --output-directory."
                )
            )
        else:
            found.warnings.append(Finding(f"{text}, less than 1 GiB: it may fill up. Delete something there."))
    return found


def _text_to_video(expert: CheckedExpert) -> Finding:
    return Finding(
        f"{expert.label} is a text-to-video checkpoint: it has no input channels for images, so it would ignore both "
        f"of them. Load an image-to-video checkpoint, for example wan2.2_i2v_{expert.noise}_noise_14B_fp8_scaled"
        ".safetensors.",
        expert.node_id,
    )


def _is_other(expert: CheckedExpert, file: LoaderFile) -> bool:
    return expert_of(file.name, file.titles) == _OTHER[expert.noise]


def _other_expert(expert: CheckedExpert, file: LoaderFile) -> Finding:
    other = _OTHER[expert.noise]
    return Finding(
        f"{SLOTS[expert.slot]} has {file.name}, whose name or metadata says that it is for the {other}-noise expert. "
        f"Load the {expert.noise}-noise one there.",
        file.node_id,
    )


def _distilled_prelude(expert: CheckedExpert) -> Finding:
    return Finding(
        f"model_prelude has {expert.files.distilled}, which looks made for few steps without guidance, but the prelude "
        "is there for the base model's motion. Connect the base high-noise model without LoRA, or set prelude to none.",
        expert.node_id,
    )


def _distilled(high: CheckedExpert, low: CheckedExpert, run: RunSettings, loras_known: bool) -> Iterator[Finding]:
    """Warn if steps or cfg do not fit: files made for few steps, or no such files."""
    for expert, cfg, name in ((high, run.cfg, "cfg"), (low, run.cfg_low, "cfg of the low-noise expert")):
        if expert.files.distilled and cfg is not None and cfg > 1:
            yield Finding(
                f"{name} is {cfg:g}, but {expert.files.distilled} ({SLOTS[expert.slot]}) looks made for few steps "
                "without guidance: the video will be too harsh and take twice as long. Set cfg to 1, or remove that "
                "file."
            )
    steps = run.steps
    if steps is None:
        return
    if high.files.distilled and low.files.distilled and steps > _FEW_STEPS:
        yield Finding(
            f"steps is {steps}, but {high.files.distilled} and {low.files.distilled} look made for 4 to {_FEW_STEPS} "
            "steps. Set steps to 4, or remove those files."
        )
    known = loras_known and high.files.loader and low.files.loader
    if known and not high.files.distilled and not low.files.distilled and steps <= _FEW_STEPS:
        yield Finding(
            f"steps is {steps}, but no file's name says that it is made for few steps (Lightning, lightx2v, 4steps): "
            "the video will be blurred. Set steps to 20, or load a 4-step LoRA for each expert and set cfg to 1."
        )


def check_graph(prompt: Prompt) -> Findings:
    """Check every sampler with two experts in an API prompt by its files' headers and names; no weights are read.

    What the prompt does not tell is not checked: values from other nodes' outputs, files of unknown loaders.
    """
    found = Findings()
    for node_id in prompt:
        if class_type(prompt, node_id) in _SAMPLERS:
            found.merge(check_sampler(prompt, node_id))
    return found


def check_run(
    models: Mapping[str, Any],
    positive: list,
    latent: dict | None,
    prompt: dict | None,
    node_id: str | None,
    run: RunSettings,
) -> list[Finding]:
    """Check a run before any weight goes to the device, and return the warnings.

    Args:
        models: the MODEL of each slot: ``"high"``, ``"low"``, and ``"prelude"`` if there is a prelude.
        positive: the positive CONDITIONING; images are in it under ``concat_latent_image``.
        latent: the LATENT to denoise, ``None`` if it is not known here.
        prompt: the queued API prompt and
        node_id: this node's id in it, to name files.
        run: what the run is asked for.

    Raises:
        ValueError: a latent that is no video or has another length than the images, a
            text-to-video checkpoint, swapped experts, a full disk.
    """
    frames = None
    if latent is not None:
        check_latent(latent, positive)
        frames = (latent["samples"].shape[2] - 1) * FRAMES_PER_LATENT + 1
    experts = [
        CheckedExpert(slot, expert_files(prompt, node_id, SLOTS[slot]), image_channels(model))
        for slot, model in models.items()
    ]
    images = any("concat_latent_image" in options for _, options in positive)
    same = models["high"].model is models["low"].model
    found = check_settings(experts, run, images=images, frames=frames, same_model=same)
    paths = {file.path for file in loaded_files(prompt, node_id) if file.path is not None}
    ram = sum(path.stat().st_size for path in paths if not is_mapped(path))
    unknown = {id(models[expert.slot].model): models[expert.slot] for expert in experts if expert.path is None}
    # a dynamic one's file is mapped
    ram += sum(model.model_size() for model in unknown.values() if not model.is_dynamic())
    found.merge(check_machine(ram, output_folder(prompt or {})))
    if found.errors:
        raise ValueError("\n".join(found.errors))
    return found.warnings


def check_latent(latent: dict, positive: list) -> None:
    """Refuse a latent that does not fit the video of its conditioning.

    Raises:
        ValueError: the samples are not [batch, channels, frames, height, width], or the images' latent has another
            number of frames.
    """
    samples = latent["samples"]
    if samples.ndim != 5:
        raise ValueError(
            f"latent_image has the shape {list(samples.shape)}, which is not a video. Connect the latent of Wan First "
            "Last Frame (FLF2V)."
        )
    for _, options in positive:
        images = options.get("concat_latent_image")
        if images is not None and images.shape[2] != samples.shape[2]:
            raise ValueError(
                f"latent_image has {samples.shape[2]} latent frames, but the first/last-frame conditioning has "
                f"{images.shape[2]}. Connect the latent of the same Wan First Last Frame (FLF2V) node."
            )


def image_channels(model: Any) -> int | None:
    """Return how many input channels ``model`` has beyond the latent's own, or None when it is not a Wan model."""
    patch_embedding = getattr(model.model.diffusion_model, "patch_embedding", None)
    if patch_embedding is None:
        return None
    return patch_embedding.weight.shape[1] - model.get_model_object("latent_format").latent_channels


def check_sampler(prompt: Prompt, node_id: str) -> Findings:
    """Check one of them, as ``check_graph`` does."""
    found = Findings()
    loaded = loaded_files(prompt, node_id)
    for file in missing_files(prompt, node_id):
        found.errors.append(
            Finding(
                f'Node {file.node_id} "{title(prompt, file.node_id)}" needs the model file "{file.name}", which this '
                f"ComfyUI does not have. Put it into {file.place}, or choose another in {file.input}."
                + where_to_get(file.name, {other.name for other in loaded}),
                file.node_id,
            )
        )
    read: dict[Path, ModelFile] = {}
    for path, loader in {file.path: file.node_id for file in loaded if file.path}.items():
        try:
            read[path] = read_file(path)
        except (OSError, ValueError) as error:
            found.errors.append(Finding(str(error), loader))
    slots = SLOTS if has_prelude(prompt, node_id) else _EXPERTS
    experts = [_expert(prompt, node_id, slot, read) for slot in slots]
    steps = number(prompt, node_id, "steps")
    run = RunSettings(
        None if steps is None else int(steps), number(prompt, node_id, "cfg"), number(prompt, node_id, "cfg_low_noise")
    )
    length_node, frames = video_length(prompt, node_id) or (None, None)
    images = images_connected(prompt, node_id)
    found.merge(check_settings(experts, run, images=images, frames=frames, length_node=length_node))
    copied = sum(file.size for path, file in read.items() if not is_mapped(path))
    found.merge(check_machine(copied, output_folder(prompt)))
    return found


def _expert(prompt: Prompt, node_id: str, slot: str, read: dict[Path, ModelFile]) -> CheckedExpert:
    files = expert_files(prompt, node_id, SLOTS[slot])
    file = read.get(files.loader.path) if files.loader and files.loader.path else None
    return CheckedExpert(slot, files, image_channels=file.wan.image_channels if file and file.wan else None)


def available_ram() -> int:
    """Return the bytes of main memory that models could have: what is free, and what this process already uses.

    What it uses counts, since models of an earlier run are used again or make room. Pages shared with files do not,
    where the system tells them: they are among the free ones.
    """
    own = psutil.Process().memory_info()
    return psutil.virtual_memory().available + own.rss - getattr(own, "shared", 0)


def is_mapped(path: Path) -> bool:
    """Whether this ComfyUI maps a file's weights instead of copying them to main memory.

    It does so with safetensors files under its dynamic memory manager (comfy/utils.py, load_torch_file). What is mapped
    is given back when memory is short, and read again, so such a file needs no further memory.
    """
    return comfy.memory_management.aimdo_enabled and path.suffix.lower() in SAFETENSORS


def free_disk(folder: Path) -> int | None:
    """Return the free bytes where ``folder`` is or will be made; ``None`` if the file system does not tell."""
    for place in (folder, *folder.parents):
        try:
            usage = shutil.disk_usage(place)
        except OSError:  # not there yet
            continue
        return usage.free if usage.total else None
    return None
