"""The rules of preflight with their texts: which files, settings and machines do not fit together.

An error is what cannot work, or would silently give another video than was asked for. All else is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..sampling.schedule import RunSettings
from ..wan import TRAINED_FRAMES
from . import memory
from .model_files import expert_of
from .prompts import ExpertFiles

SLOTS = {"high": "model_high_noise", "low": "model_low_noise"}
"""The experts, and the sampler's inputs for them."""
_OTHER = {"high": "low", "low": "high"}
# Step-distilled files are made for 4 steps, some for up to 8, without guidance (lightx2v/Wan2.2-Lightning).
_FEW_STEPS = 8
_MIB, _GIB = 1 << 20, 1 << 30
_FULL_DISK, _LOW_DISK = 64 * _MIB, 1 * _GIB  # a finished video has tens of MiB


@dataclass
class Report:
    """What was found: ``errors`` stop the run, ``warnings`` do not. Every text can be read alone."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def merge(self, other: Report) -> None:
        """Add what ``other`` has and this one has not."""
        self.errors += [text for text in other.errors if text not in self.errors]
        self.warnings += [text for text in other.warnings if text not in self.warnings]


class Expert(NamedTuple):
    """One of the two models: its ``slot`` (``"high"`` or ``"low"``), its files, its input channels for images."""

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
    def label(self) -> str:
        """The input with its file: ``model_high_noise (wan2.2….safetensors)``."""
        return SLOTS[self.slot] + (f" ({self.file})" if self.file else "")


def check_settings(
    experts: Sequence[Expert],
    run: RunSettings,
    *,
    images: bool,
    frames: int | None,
    loras_known: bool = True,
    same_model: bool = False,
) -> Report:
    """Check the two experts (high, low) against each other and against what the run was asked for.

    Args:
        experts: high, low.
        run: its ``steps`` and cfgs are checked where they are known.
        images: whether a first or last image is connected.
        frames: of the video, ``None`` where they are not known.
        loras_known: whether the experts' LoRAs are all there are.
        same_model: whether both are one object in memory, whatever their files are called.
    """
    errors = [_text_to_video(expert) for expert in experts if images and expert.image_channels == 0]
    warnings = []
    high, low = experts
    wrong = [expert for expert in experts if expert.file and expert_of(expert.file) == _OTHER[expert.slot]]
    if len(wrong) == 2:
        errors.append(
            f"The experts are swapped: model_high_noise has {high.file}, model_low_noise has {low.file}. Exchange the "
            "two files."
        )
    else:
        warnings += [_other_expert(expert, expert.file or "") for expert in wrong]
    for expert in experts:
        loras = [name for name in expert.files.loras if expert_of(name) == _OTHER[expert.slot]]
        warnings += [_other_expert(expert, name) for name in loras]
    if same_model or (high.path is not None and high.path == low.path):
        warnings.append(
            f"model_high_noise and model_low_noise are the same{f' ({high.file})' if high.file else ''}. That is right "
            "for Wan 2.1, which has one model; of Wan 2.2, load the high-noise file in one and the low-noise file in "
            "the other."
        )
    warnings += _distilled(experts, run, loras_known)
    if frames is not None and frames > TRAINED_FRAMES:
        warnings.append(
            f"The video has {frames} frames, but Wan 2.2 was trained on up to {TRAINED_FRAMES}: longer ones "
            f"tend to loop or to burn out. Set length to {TRAINED_FRAMES}, or join several videos."
        )
    return Report(errors, warnings)


def check_machine(ram_needed: int, folder: Path) -> Report:
    """Check main memory for ``ram_needed`` bytes, and the disk of the output ``folder``."""
    report = Report()
    ram = memory.available_ram()
    if ram < ram_needed:
        report.warnings.append(
            f"The model files need about {ram_needed / _GIB:.1f} GiB of main memory, but only {ram / _GIB:.1f} GiB are "
            "available: the run may become very slow or end ComfyUI. Close other programs, or use smaller files (fp8 "
            "or GGUF)."
        )
    free = memory.free_disk(folder)
    if free is not None and free < _LOW_DISK:
        text = f"The output folder {folder} has {free / _MIB:.0f} MiB of free disk space"
        if free < _FULL_DISK:
            report.errors.append(
                f"{text}; a video needs at least {_FULL_DISK // _MIB} MiB. Delete something there, or start ComfyUI "
                "with another --output-directory."
            )
        else:
            report.warnings.append(f"{text}, less than 1 GiB: it may fill up. Delete something there.")
    return report


def _text_to_video(expert: Expert) -> str:
    return (
        f"{expert.label} is a text-to-video checkpoint: it has no input channels for images, so it would ignore both "
        f"of them. Load an image-to-video checkpoint, for example wan2.2_i2v_{expert.slot}_noise_14B_fp8_scaled"
        ".safetensors."
    )


def _other_expert(expert: Expert, name: str) -> str:
    other = _OTHER[expert.slot]
    return (
        f"{SLOTS[expert.slot]} has {name}, whose name says that it is for the {other}-noise expert. Load the "
        f"{expert.slot}-noise one there."
    )


def _distilled(experts: Sequence[Expert], run: RunSettings, loras_known: bool) -> Iterator[str]:
    """Warn if steps or cfg do not fit: files made for few steps, or no such files."""
    high, low = experts
    for expert, cfg, name in ((high, run.cfg, "cfg"), (low, run.cfg_low, "cfg of the low-noise expert")):
        if expert.files.distilled and cfg is not None and cfg > 1:
            yield (
                f"{name} is {cfg:g}, but {expert.files.distilled} ({SLOTS[expert.slot]}) looks made for few steps "
                "without guidance: the video will be too harsh and take twice as long. Set cfg to 1, or remove that "
                "file."
            )
    steps = run.steps
    if steps is None:
        return
    if high.files.distilled and low.files.distilled and steps > _FEW_STEPS:
        yield (
            f"steps is {steps}, but {high.files.distilled} and {low.files.distilled} look made for 4 to {_FEW_STEPS} "
            "steps. Set steps to 4, or remove those files."
        )
    known = loras_known and high.files.loader and low.files.loader
    if known and not high.files.distilled and not low.files.distilled and steps <= _FEW_STEPS:
        yield (
            f"steps is {steps}, but no file's name says that it is made for few steps (Lightning, lightx2v, 4steps): "
            "the video will be blurred. Set steps to 20, or load a 4-step LoRA for each expert and set cfg to 1."
        )
