"""The Plan node: what a run will do and need, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..preflight import plan, plan_plot, plan_text
from ..preflight.model_files import expert_of
from ..sampling.schedule import RunSettings
from ..video import geometry
from .notice import show_text
from .run_inputs import (
    boundary_input,
    cfg_input,
    cfg_low_noise_input,
    handover_inputs,
    prelude_settings,
    solver_inputs,
    steps_input,
)
from .video_inputs import frame_rate_input, length_input, segments_input, shared_frames_input, size_inputs

NONE = "none"


class WanFLF2VPlan(io.ComfyNode):
    """Plan a run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VPlan",
            display_name="Wan FLF2V Plan",
            category="video/wan flf2v",
            description=(
                "A dry run that loads no weights: every step with its sigma and its expert, the hand-over, frames and "
                "seconds, size, operations, and what the chosen files will take of main and GPU memory, told from "
                "their headers. Says what is wrong with the files or the settings."
            ),
            search_aliases=[
                "dry run",
                "sigma table",
                "schedule preview",
                "vram estimate",
                "preflight",
                "wan moe split",
            ],
            inputs=[
                *_files(),
                *size_inputs(),
                length_input(),
                frame_rate_input(),
                *_sampling(),
                *_prelude(),
                shared_frames_input(),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The plan in words."),
                io.String.Output(display_name="json", tooltip="The plan as a JSON object."),
                io.Image.Output(display_name="plot", tooltip="Sigma over the steps, in the experts' colours."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, width: int | None, height: int | None) -> bool | str:
        """Refuse sizes that cannot be generated; None is a value that comes from another node."""
        return geometry.size_errors(width, height) or True

    @classmethod
    def fingerprint_inputs(cls, **_inputs: Any) -> float:
        """Plan every time: files and free memory change."""
        return float("nan")

    @classmethod
    def execute(
        cls,
        model_high_noise: str,
        model_low_noise: str,
        text_encoder: str,
        vae: str,
        width: int,
        height: int,
        length: int,
        frame_rate: float,
        segments: int = 1,
        model_prelude: str = NONE,
        prelude_shift: float = 8.0,
        shared_frames: int = 1,
        **sampling: Any,
    ) -> io.NodeOutput:
        chosen = {
            "high": model_high_noise,
            "low": model_low_noise,
            "prelude": model_prelude,
            "text_encoder": text_encoder,
            "vae": vae,
        }
        frames = geometry.snap_length(length)
        if segments > 1 and shared_frames >= frames:
            raise ValueError(
                f"shared_frames is {shared_frames}, but must be below {frames}, the length of a segment. Set fewer."
            )
        size, of_latent = geometry.video_size(width, height), geometry.latent_frames(frames)
        video = plan.Video(*size, length, frames, of_latent, frame_rate, segments, shared_frames)
        made = plan.make_plan(
            {key: None if name == NONE else name for key, name in chosen.items()},
            video,
            RunSettings(**sampling, prelude_shift=prelude_shift),
            Path(folder_paths.get_output_directory()),
        )
        text, json, picture = plan_text.to_text(made), made.to_json(), plan_plot.draw(made)
        show_text(cls.hidden.unique_id, text)
        shown = {"text": (text,), "json": (json,), **ui.PreviewImage(picture, cls=cls).as_dict()}
        return io.NodeOutput(text, json, picture, ui=shown)


def _files() -> list[io.Input]:
    """Return the inputs for files; a file that is not downloaded yet can be 'none'."""
    models = _names("high")

    def combo(name: str, files: list[str], is_default: Callable[[str], bool], tooltip: str) -> io.Input:
        default = next(filter(is_default, files), NONE)
        return io.Combo.Input(name, options=[NONE, *files], default=default, tooltip=tooltip)

    def expert(name: str, slot: str) -> io.Input:
        tooltip = f"The {slot}-noise expert's file. 'none' plans with the dimensions of Wan 14B, without its memory."
        return combo(name, models, lambda file: expert_of(file) == slot, tooltip)

    def other(name: str, words: tuple[str, ...], what: str) -> io.Input:
        tooltip = f"The {what}, counted in main memory."
        return combo(name, _names(name), lambda file: all(word in file.lower() for word in words), tooltip)

    return [
        expert("model_high_noise", "high"),
        expert("model_low_noise", "low"),
        other("text_encoder", ("umt5",), "text encoder"),
        other("vae", ("wan", "vae"), "VAE"),
    ]


def _names(key: str) -> list[str]:
    """Return the files to choose from, with those that the GGUF loaders' pack lists under other kinds of folder."""
    kinds = [kind for kind in plan.FOLDERS[key] if kind in folder_paths.folder_names_and_paths]
    return [name for kind in kinds for name in folder_paths.get_filename_list(kind)]


def _sampling() -> list[io.Input]:
    return [
        steps_input(),
        cfg_input(),
        cfg_low_noise_input(advanced=False),
        io.Float.Input(
            "shift", default=8.0, min=0.01, max=100.0, step=0.01, tooltip="As set by ModelSamplingSD3; Wan's own is 8."
        ),
        *solver_inputs(),
        io.Float.Input(
            "denoise", default=1.0, min=0.01, max=1.0, step=0.01, tooltip="Below 1, the last part of a longer schedule."
        ),
        *handover_inputs(),
        boundary_input(advanced=False),
        segments_input(
            "How many segments of this length make the video; the plan then tells their frames and loads too."
        ),
    ]


def _prelude() -> list[io.Input]:
    return [
        io.Combo.Input(
            "model_prelude",
            options=[NONE, *_names("prelude")],
            default=NONE,
            optional=True,
            tooltip="The prelude's file, the base high-noise model. 'none' plans with the dimensions of Wan 14B, "
            "without its memory.",
        ),
        *prelude_settings("none"),
        io.Float.Input(
            "prelude_shift",
            default=8.0,
            min=0.01,
            max=100.0,
            step=0.01,
            optional=True,
            tooltip="The shift of the prelude's schedule: of a ModelSamplingSD3 before it, else the model's own, 8.",
        ),
    ]
