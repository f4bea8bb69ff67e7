"""When preflight checks: a prompt before it is queued (by headers alone), and a run before its weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..sampling.schedule import RunSettings
from ..wan import FRAMES_PER_LATENT
from .model_files import ModelFile, read_file
from .prompts import (
    Prompt,
    class_type,
    expert_files,
    images_connected,
    loaded_files,
    missing_files,
    number,
    output_folder,
    title,
    video_frames,
)
from .rules import SLOTS, Expert, Report, check_machine, check_settings

# Nodes with both experts, as inputs of these names.
_SAMPLERS = ("WanFLF2VSampler", "WanFLF2VGuider")


def check_graph(prompt: Prompt) -> Report:
    """Check every sampler with two experts in an API prompt by its files' headers and names; no weights are read.

    What the prompt does not tell is not checked: values from other nodes' outputs, files of unknown loaders.
    """
    report = Report()
    for node_id in prompt:
        if class_type(prompt, node_id) in _SAMPLERS:
            report.merge(_check_sampler(prompt, node_id))
    return report


def check_run(
    high: Any,
    low: Any,
    positive: list,
    latent: dict | None,
    prompt: dict | None,
    node_id: str | None,
    run: RunSettings,
) -> list[str]:
    """Check a run before any weight goes to the device, and return the warnings.

    Args:
        high: the high-noise MODEL.
        low: the low-noise MODEL.
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
        Expert(slot, expert_files(prompt, node_id, SLOTS[slot]), image_channels(model))
        for slot, model in (("high", high), ("low", low))
    ]
    images = any("concat_latent_image" in options for _, options in positive)
    report = check_settings(experts, run, images=images, frames=frames, same_model=high.model is low.model)
    paths = {file.path for file in loaded_files(prompt, node_id) if file.path is not None}
    ram = sum(path.stat().st_size for path in paths)
    ram += sum(model.model_size() for expert, model in zip(experts, (high, low), strict=True) if expert.path is None)
    report.merge(check_machine(ram, output_folder(prompt or {})))
    if report.errors:
        raise ValueError("\n".join(report.errors))
    return report.warnings


def check_latent(latent: dict, positive: list) -> None:
    """Refuse a latent that does not fit the video of its conditioning.

    Raises:
        ValueError: the samples are not [batch, channels, frames, height, width], or the images' latent has another
            number of frames.
    """
    samples = latent["samples"]
    if samples.ndim != 5:
        raise ValueError(
            f"latent_image has the shape {list(samples.shape)}, which is not a video. Connect the latent of Wan FLF2V "
            "First/Last Frame."
        )
    for _, options in positive:
        images = options.get("concat_latent_image")
        if images is not None and images.shape[2] != samples.shape[2]:
            raise ValueError(
                f"latent_image has {samples.shape[2]} latent frames, but the first/last-frame conditioning has "
                f"{images.shape[2]}. Connect the latent of the same Wan FLF2V First/Last Frame node."
            )


def image_channels(model: Any) -> int | None:
    """Return how many input channels ``model`` has beyond the latent's own, or None when it is not a Wan model."""
    patch_embedding = getattr(model.model.diffusion_model, "patch_embedding", None)
    if patch_embedding is None:
        return None
    return patch_embedding.weight.shape[1] - model.get_model_object("latent_format").latent_channels


def _check_sampler(prompt: Prompt, node_id: str) -> Report:
    report = Report()
    for file in missing_files(prompt, node_id):
        report.errors.append(
            f'Node {file.node_id} "{title(prompt, file.node_id)}" needs the model file "{file.name}", which is not in '
            f"this ComfyUI's {' or '.join(file.folders)} folders ({file.folder_list}). Put it there, or choose another "
            f"in {file.input}; the table of models in the README says where to get it."
        )
    read: dict[Path, ModelFile] = {}
    for path in dict.fromkeys(file.path for file in loaded_files(prompt, node_id) if file.path is not None):
        try:
            read[path] = read_file(path)
        except (OSError, ValueError) as error:
            report.errors.append(str(error))
    experts = [_expert(prompt, node_id, slot, read) for slot in SLOTS]
    steps = number(prompt, node_id, "steps")
    run = RunSettings(
        None if steps is None else int(steps), number(prompt, node_id, "cfg"), number(prompt, node_id, "cfg_low_noise")
    )
    images, frames = images_connected(prompt, node_id), video_frames(prompt, node_id)
    report.merge(check_settings(experts, run, images=images, frames=frames))
    report.merge(check_machine(sum(file.size for file in read.values()), output_folder(prompt)))
    return report


def _expert(prompt: Prompt, node_id: str, slot: str, read: dict[Path, ModelFile]) -> Expert:
    files = expert_files(prompt, node_id, SLOTS[slot])
    file = read.get(files.loader.path) if files.loader and files.loader.path else None
    return Expert(slot, files, image_channels=file.wan.image_channels if file and file.wan else None)
