"""Node 73: a latent or images into a video file in ComfyUI's output folder."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from .. import compat
from ..video import formats, tags, vae_decode
from ..video.audio import Sound, sound_of
from ..video.clips import Clip, Recipe, Segment, clip_of_images, write_segments
from ..video.color_match import ColorMatch
from ..video.edit import Edit
from ..video.formats import Format
from ..video.geometry import exact_size, start_frames
from ..video.interpolation import Interpolation
from ..video.overlap import shared_frames
from ..video.settings import DEFAULT_PRESET, Settings, exact_rate
from ..video.writer import new_writer
from .color_match import ColorMatchSettings
from .lists import calls_of
from .notice import show_notice
from .output_files import name_error, reserved_place
from .video_combine_inputs import CRF_PLAYABLE, OWN_QUALITY, check_values, combine_inputs
from .video_inputs import CARRIED_MOST

_SAMPLER = "WanFLF2VSampler"
# What the file tells of the run that made it, by the nodes that have these inputs.
_TOLD = {
    _SAMPLER: ("noise_seed", "seed_count", "steps", "cfg", "handover", "handover_step", "boundary"),
    "WanFLF2VGuider": ("cfg", "handover", "handover_step", "boundary"),
    "RandomNoise": ("noise_seed",),
    "BasicScheduler": ("steps",),
}


class WanFLF2VVideoCombine(io.ComfyNode):
    """Write the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VVideoCombine",
            display_name="Wan FLF2V Video Combine",
            category="video/wan flf2v",
            description=(
                "Decodes the latent and writes a video file (or writes images you connect instead): H.264, H.265, AV1, "
                "VP9, ProRes, FFV1, GIF, WebP or PNG. Colours are converted and tagged as BT.709. The prompt and the "
                "workflow are stored in the file: dropping it on ComfyUI restores the graph (not from mkv and gif). "
                "Every clip of a batch becomes a separate file."
            ),
            search_aliases=["save video", "VHS video combine", "mp4", "h264", "gif", "prores", "export video"],
            inputs=combine_inputs(),
            outputs=[
                io.Video.Output(
                    display_name="video", is_output_list=True, tooltip="The files written, one for each clip."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        filename_prefix: Sequence[str | None],
        format: Sequence[str | None] = (formats.DEFAULT.name,),
        quality: Sequence[int | None] = (OWN_QUALITY,),
        save_output: Sequence[bool | None] = (True,),
        frame_rate: Sequence[float | None] = (None,),
        hold_fps: Sequence[float | None] = (0.0,),
        interp_model: Sequence[None] = (),
        multiplier: Sequence[int | None] = (None,),
    ) -> bool | str:
        """Refuse before anything is sampled: a name that no file can have, a folder that cannot be written, a format,
        quality or frame rate that there is not.

        None is a value from another node, and so is ``interp_model`` if it is there. ComfyUI leaves the range of what
        is named here to this.
        """
        if format[0] is not None and (error := formats.error_of(format[0])):
            return error
        chosen = formats.BY_NAME[format[0] or formats.DEFAULT.name]
        try:
            if format[0] is not None and quality[0] is not None:
                _quality(chosen, quality[0])
            typed = {"frame_rate": frame_rate[0], "hold_fps": hold_fps[0] or None, "multiplier": multiplier[0]}
            check_values(**{name: value for name, value in typed.items() if value is not None})
            shown = frame_rate[0] if hold_fps[0] == 0 else hold_fps[0]
            # Of a linked multiplier it is known that it makes more.
            factor = (multiplier[0] or 1) if interp_model and hold_fps[0] == 0 else 1
            if format[0] is not None and shown is not None:
                _check_rate(chosen, exact_rate(shown) * factor)
        except ValueError as error:
            return str(error)
        return name_error(filename_prefix[0], chosen.suffix, in_output=save_output[0] is True) or True

    @classmethod
    def execute(cls, **lists: list) -> io.NodeOutput:
        """Write the files of each call, or one file of all calls."""
        calls, notices = calls_of(lists), _Notices(cls.hidden.unique_id)
        sources = [_Source(*(call.pop(name, None) for name in _Source._fields)) for call in calls]
        shown = _Shown(calls)
        if calls[0].pop("join_segments", False):
            _check_joined(lists)
            cls._write(sources, notices, shown, **{**calls[0], "join_segments": True})
        else:
            for source, call in zip(sources, calls, strict=True):
                cls._write([source], notices, shown, **call)
        return io.NodeOutput(shown.videos, ui=shown.as_dict())

    @classmethod
    def _write(
        cls,
        sources: Sequence[_Source],
        notices: _Notices,
        shown: _Shown,
        frame_rate: float,
        filename_prefix: str,
        crf: int,
        width: int = 0,
        height: int = 0,
        decode: str = "streamed",
        format: str = formats.DEFAULT.name,
        quality: int = OWN_QUALITY,
        preset: str = DEFAULT_PRESET,
        dither: str = "auto",
        save_output: bool = True,
        save_metadata: bool = True,
        skip_first_frames: int = 0,
        skip_last_frames: int = 0,
        ping_pong: bool = False,
        loop_count: int = 0,
        hold_fps: float = 0.0,
        multiplier: int = 2,
        audio: dict | None = None,
        interp_model: Any = None,
        join_segments: bool = False,
    ) -> None:
        """Write a file for each clip of a batch, of the sources one after another."""
        if error := formats.error_of(format):
            raise ValueError(error)
        chosen = formats.BY_NAME[format]
        check_values(frame_rate=frame_rate, crf=crf, preset=preset, dither=dither)
        if crf < CRF_PLAYABLE and chosen.crf:
            notices.warn(
                f"crf {crf} is lossless, which browsers cannot play: the video is written with crf {CRF_PLAYABLE}."
            )
            crf = CRF_PLAYABLE
        if audio is not None and not chosen.audio:
            notices.warn(f"{chosen.name} has no sound: audio is left out.")
            audio = None
        source_rate = exact_rate(frame_rate)
        edit, rate = _edit(
            chosen, source_rate, skip_first_frames, skip_last_frames, ping_pong, loop_count, hold_fps,
            *_interpolation(interp_model, multiplier),
        )  # fmt: skip
        alpha = bool(chosen.alpha) and all(source.has_alpha for source in sources)
        settings = Settings(
            rate, chosen, crf, _quality(chosen, quality), preset, dither, loop_count, alpha=alpha,
        )  # fmt: skip
        floats = settings.takes_floats or edit.factor > 1
        beside = [interp_model] if edit.factor > 1 else []
        batches = [_clips(source, decode, floats, alpha, beside) for source in sources]
        _check_alike(sources, batches)
        size = _size(chosen, batches[0][0], sources[0].latent, width, height, notices)
        matches = [source.match(size) for source in sources]
        temp = Path(folder_paths.get_temp_directory())
        temp.mkdir(parents=True, exist_ok=True)
        recipe = Recipe(edit, settings.looks_twice, floats and not settings.takes_floats, temp)
        shared = _shared(sources, [batch[0] for batch in batches], notices)
        files = [list(map(Segment, clips, matches, shared)) for clips in zip(*batches, strict=True)]
        progress = comfy.utils.ProgressBar(sum(map(recipe.steps, files)))
        kind = io.FolderType.output if save_output else io.FolderType.temp
        for number, segments in enumerate(files):
            frames = edit.count(sum(segment.frames for segment in segments))
            one = replace(
                settings,
                tags=cls._metadata(size, frames, rate, number) if save_metadata else {},
                sound=_sound(audio, number, skip_first_frames / source_rate, frames / rate / edit.repeats),
                frames=frames,
            )
            notices.check_tags(one)
            preview = temp / f"wan_flf2v_{secrets.token_hex(8)}.mp4" if shown.needs_preview(chosen) else None
            with (
                reserved_place(filename_prefix, size, chosen.suffix, save_output) as (path, subfolder),
                _explained(chosen, size),
            ):
                write_segments(partial(new_writer, path, *size, one, preview), progress, segments, recipe)
            for place, match in enumerate(matches, start=1):
                if match is not None:
                    of = f"segment {place}, " if join_segments else ""
                    notices.say(f"{path.name}: {of}colour: {match}")
            shown.add(path, subfolder, kind, size, one, preview)

    @classmethod
    def _metadata(cls, size: tuple[int, int], frames: int, rate: Fraction, number: int) -> dict[str, Any]:
        """Return the tags from which ComfyUI restores the graph, and the facts; none with --disable-metadata."""
        if args.disable_metadata:
            return {}
        prompt = {} if cls.hidden.prompt is None else {"prompt": cls.hidden.prompt}
        facts = {
            **{"wan_flf2v": _pack_version(), "comfyui": compat.host_version(), "clip": number},
            **{"width": size[0], "height": size[1], "frames": frames, "frame_rate": str(rate)},
            **_sampler_settings(cls.hidden.prompt or {}, str(cls.hidden.unique_id)),
        }
        return {**(cls.hidden.extra_pnginfo or {}), **prompt, "wan_flf2v": facts}


class _Source(NamedTuple):
    """What one segment is made of, or the only one: the inputs of these names."""

    latent: dict | None
    vae: Any
    images: torch.Tensor | None
    color_match: ColorMatchSettings | None

    @property
    def has_alpha(self) -> bool:
        return self.images is not None and self.images.shape[-1] == 4

    def match(self, size: tuple[int, int]) -> ColorMatch | None:
        """Return what corrects the colours, or None."""
        return None if self.color_match is None or self.color_match.strength == 0 else self.color_match.for_size(*size)


def _check_joined(lists: Mapping[str, Sequence[Any]]) -> None:
    """Refuse lists that are no segments': with join_segments there is one file, and one value of all else."""
    count = max(len(lists.get(name) or ()) for name in ("latent", "images"))
    for name, values in lists.items():
        most = count if name in _Source._fields else 1
        if len(values) > most:
            raise ValueError(
                f"{name} has {len(values)} values, but with join_segments it can have {most}: "
                + ("one for each segment." if name in _Source._fields else "one for the whole file.")
            )


class _Notices:
    """What the node says under itself: a node shows its last text alone, so each has those before it."""

    def __init__(self, node_id: str | None) -> None:
        self._node_id = node_id
        self._texts: list[str] = []

    def say(self, text: str) -> None:
        self._texts.append(text)
        show_notice(self._node_id, "\n".join(self._texts))

    def warn(self, text: str) -> None:
        self._texts.append(text)
        show_notice(self._node_id, text, warning=True)

    def check_tags(self, settings: Settings) -> None:
        """Warn of tags that the frontend does not read to their end."""
        if settings.format.container == "webm" and tags.weight(settings.tags) > tags.WEBM_BYTES:
            self.warn(
                "Prompt and workflow have more than 2 MiB: ComfyUI reads no more of a WebM, so dropping the file will "
                "not restore them. An MP4 has room for 64 MiB."
            )


class _Shown:
    """What the node shows and gives on: the files, what is in them, and what a browser plays in their place.

    The frontend shows all files of a node as videos, or all as pictures.
    """

    def __init__(self, calls: Sequence[Mapping[str, Any]]) -> None:
        chosen = [formats.BY_NAME.get(call.get("format", ""), formats.DEFAULT) for call in calls]
        self._as_pictures = all(one.is_picture and one.plays for one in chosen)
        self._files: list[ui.SavedResult] = []
        self._shown: list[ui.SavedResult] = []
        self._facts: list[str] = []
        self.videos: list[Any] = []

    def needs_preview(self, chosen: Format) -> bool:
        """Return whether a file of this format is shown by a video in its place."""
        return not chosen.plays or (chosen.is_picture and not self._as_pictures)

    def add(
        self,
        path: Path,
        subfolder: str,
        kind: io.FolderType,
        size: tuple[int, int],
        settings: Settings,
        preview: Path | None,
    ) -> None:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        inside = f"{subfolder}/{path.name}".lstrip("/") if path.is_dir() else subfolder
        saved = [ui.SavedResult(file.name, inside, kind) for file in files]
        self._files += saved
        if preview is not None and preview.exists():
            saved = [ui.SavedResult(preview.name, "", io.FolderType.temp)]
        self._shown += saved
        weight = sum(file.stat().st_size for file in files)
        text = f"{weight / (1 << 20):.1f} MiB" if weight >= 1 << 20 else f"{weight / (1 << 10):.0f} KiB"
        # From the first frame to the last, as the line under node 67 counts; one alone is shown for its time.
        seconds = round(float(max(settings.frames - 1, 1) / settings.frame_rate), 2)
        rate = round(float(settings.frame_rate), 3)
        self._facts.append(f"{size[0]}x{size[1]}, {settings.frames} frames, {seconds:g} s at {rate:g} fps, {text}")
        readable = settings.format.container not in ("webp", "")
        self.videos.append(InputImpl.VideoFromFile(str(path)) if readable else ExecutionBlocker(
            f"ComfyUI's video nodes cannot read {settings.format.name}. Choose another format to give the video on."
        ))  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Return what the frontend gets. It shows files that are not ``animated`` as pictures, which suits GIF and PNG.

        Tuples: of what stands in lists, ComfyUI takes each entry for a separate result.
        """
        return {
            "images": self._files,
            "animated": tuple(not file["filename"].endswith((".gif", ".png")) for file in self._shown),
            "facts": tuple(self._facts),
            "shown": tuple(self._shown),
        }


@contextlib.contextmanager
def _explained(chosen: Format, size: tuple[int, int]) -> Iterator[None]:
    """Say in words what it means when an encoder does not open."""
    try:
        yield
    except av.error.FFmpegError as error:
        if "avcodec_open2" not in str(error):
            raise
        raise ValueError(
            f"format is {chosen.name!r}, but {chosen.encoder} refuses {size[0]}x{size[1]} pixels with these settings: "
            f"{error.strerror}. Use another size or another format."
        ) from error


def _interpolation(interp_model: Any, multiplier: int) -> tuple[int, Callable[[torch.Tensor], torch.Tensor] | None]:
    """Return how many frames become of each, and ComfyUI's own node that makes them."""
    if interp_model is None:
        return 1, None
    check_values(multiplier=multiplier)
    node = compat.frame_interpolation()
    return multiplier, Interpolation(lambda images: node.execute(interp_model, images, multiplier).args[0])


def _sound(audio: dict | None, clip: int, skipped: Fraction, seconds: Fraction) -> Sound | None:
    """Return the sound of a clip's kept frames: what is before them is left out with the frames."""
    return None if audio is None else sound_of(audio, clip).after(skipped).lasting(seconds)


def _edit(
    chosen: Format,
    rate: Fraction,
    skip_first: int,
    skip_last: int,
    ping_pong: bool,
    loop_count: int,
    hold_fps: float,
    factor: int,
    interpolate: Callable[[torch.Tensor], torch.Tensor] | None,
) -> tuple[Edit, Fraction]:
    """Return what is done to the frames, and the file's frame rate."""
    check_values(skip_first_frames=skip_first, skip_last_frames=skip_last, loop_count=loop_count)
    if hold_fps:
        check_values(hold_fps=hold_fps)
    rate *= factor
    file_rate = exact_rate(hold_fps) if hold_fps else rate
    _check_rate(chosen, file_rate)
    repeats = 1 if chosen.counts_loops else max(1, loop_count)
    return Edit(skip_first, skip_last, factor, interpolate, ping_pong, repeats, file_rate / rate), file_rate


def _check_rate(chosen: Format, rate: Fraction) -> None:
    if chosen.most_fps and rate > chosen.most_fps:
        raise ValueError(
            f"the video has {float(rate):g} frames per second, but a {chosen.name} shows {chosen.most_fps} at most. "
            f"Set hold_fps to {chosen.most_fps} or less, or choose another format."
        )


def _quality(chosen: Format, quality: int) -> int | None:
    """Return the quality to give to the encoder; None is its own default."""
    if quality == OWN_QUALITY or chosen.quality is None:
        return None
    least, most = chosen.quality.least, chosen.quality.most
    if not least <= quality <= most:
        raise ValueError(
            f"quality is {quality}, but {chosen.name} takes {least} to {most}, or {OWN_QUALITY} for its default of "
            f"{chosen.quality.default}."
        )
    return quality


def _size(
    chosen: Format, clip: Clip, latent: dict | None, width: int, height: int, notices: _Notices
) -> tuple[int, int]:
    """Return the exact width and height, from the latent or as given for images, as the format can have them."""
    if latent is not None:
        width, height = exact_size(latent, clip.width, clip.height)
    else:
        width, height = width or clip.width, height or clip.height
    if width > clip.width or height > clip.height:
        raise ValueError(
            f"width x height is {width}x{height}, but the images have {clip.width}x{clip.height} pixels "
            "and can only be cropped. Use a smaller size, or 0 to keep theirs."
        )
    wide, high = chosen.block
    possible = width - width % wide, height - height % high
    if min(possible) < chosen.least and 0 not in possible:
        raise ValueError(
            f"width x height is {width}x{height}, but {chosen.codec} takes at least {chosen.least}x{chosen.least} "
            "pixels. Use a larger size or another format."
        )
    if chosen.most and max(possible) > chosen.most:
        raise ValueError(
            f"width x height is {width}x{height}, but {chosen.codec} takes at most {chosen.most}x{chosen.most} pixels. "
            "Use a smaller size or another format."
        )
    if 0 in possible:
        raise ValueError(
            f"width x height is {width}x{height}, but a video has at least {wide}x{high} pixels ({chosen.codec} stores "
            f"colour for blocks of {wide}x{high}). Use larger images, or a larger size."
        )
    if possible != (width, height):
        notices.warn(
            f"{width}x{height} cropped to {possible[0]}x{possible[1]}: {chosen.codec} stores colour for blocks of "
            f"{wide}x{high}."
        )
    return possible


@cache
def _pack_version() -> str:
    """Return the pack's version; a clone in ``custom_nodes`` is not installed, so it is read from its own file."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"', text, re.M)
    return found[1] if found else "unknown"


def _sampler_settings(prompt: dict[str, Any], node_id: str) -> dict[str, Any]:
    """Return the settings of the run that made this node's frames, of the nearest nodes above it that tell of one."""
    waiting, seen, told = deque([node_id]), {node_id}, {}
    while waiting:
        node = prompt.get(waiting.popleft(), {})
        inputs, kind = node.get("inputs", {}), node.get("class_type")
        for name in _TOLD.get(kind, ()):
            value = _typed(prompt, inputs.get(name))
            if value is not None:
                told.setdefault(name, value)
        if kind == _SAMPLER:
            break
        above = [value[0] for value in inputs.values() if _is_link(value) and value[0] not in seen]
        seen.update(above)
        waiting += above
    return told


def _typed(prompt: dict[str, Any], value: Any) -> Any:
    """Return the value of an input, also if it comes through nodes that have one input alone; else None."""
    for _ in prompt:  # each node is passed once at most
        if not _is_link(value):
            return value
        above = prompt.get(value[0], {}).get("inputs", {})
        value = next(iter(above.values())) if len(above) == 1 else None
    return None


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _shared(sources: Sequence[_Source], clips: Sequence[Clip], notices: _Notices) -> list[int]:
    """Return how many of its first frames each segment has from the one before; one is always left.

    A latent tells it. Images are compared, and what was found is said.
    """
    found = []
    for (before, after), clip in zip(itertools.pairwise(sources), clips[1:], strict=True):
        if after.latent is not None:
            count = start_frames(after.latent)
        else:
            count = shared_frames(before.images, after.images, CARRIED_MOST)
        found.append(min(count, clip.frames - 1))
    if found and sources[0].images is not None:
        notices.say(f"frames shared with the segment before: {', '.join(map(str, found))}")
    return [0, *found]


def _check_alike(sources: Sequence[_Source], batches: Sequence[Sequence[Clip]]) -> None:
    """Refuse segments that cannot be in one file.

    Raises:
        ValueError: they differ in their size or in how many clips they have.
    """
    for what, of in (
        (
            "frames of {}x{} pixels",
            [
                exact_size(source.latent, batch[0].width, batch[0].height)
                for source, batch in zip(sources, batches, strict=True)
            ],
        ),
        ("{} clips", [(len(batch),) for batch in batches]),
    ):
        for number, one in enumerate(of):
            if one != of[0]:
                raise ValueError(
                    f"join_segments is on, but segment {number + 1} has {what.format(*one)} and segment 1 has "
                    f"{what.format(*of[0])}. Give all segments the same size and the same number of seeds, or turn "
                    "join_segments off."
                )


def _clips(source: _Source, decode: str, floats: bool, alpha: bool, beside: list[Any]) -> list[Clip]:
    """Return the clips of the latent or of the images."""
    latent, vae, images, _ = source
    if (latent is None) == (images is None):
        given = "neither is" if latent is None else "both are"
        raise ValueError(f"latent and images: {given} connected. Connect one: a latent with its vae, or images.")
    if images is not None:
        if 0 in images.shape:
            frames, height, width, _ = images.shape
            raise ValueError(f"images has {frames} frames of {width}x{height} pixels. Connect at least one frame.")
        if images.shape[-1] not in (3, 4):
            raise ValueError(f"images has {images.shape[-1]} channel(s), but must be RGB or RGBA. Convert it first.")
        return [clip_of_images(images, floats, alpha)]
    if vae is None:
        raise ValueError("vae is not connected, but a latent needs it to become frames. Connect the Load VAE node.")
    samples = latent["samples"]
    if 0 in samples.shape:
        raise ValueError(f"latent has the shape {list(samples.shape)}, so no frame. Connect one with frames in it.")
    return vae_decode.decode(vae, samples, decode, floats, beside=beside)
