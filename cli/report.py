"""``wan-flf2v report``: judges a finished video on this machine, without a ComfyUI."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from ..client.images import ImageError, check_image
from .shared import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UsageError, check_output, err, fail, say

if TYPE_CHECKING:
    from ..quality.report import Fitted, Report
    from ..quality.seams import Joined
    from ..quality.thresholds import Thresholds

_NO_IMAGE = "-"


def add_commands(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(report)


def report(
    video: Annotated[Path, typer.Argument(help="The video file.")],
    start: Annotated[str, typer.Argument(help="The start image; - if there is none.")] = _NO_IMAGE,
    end: Annotated[str, typer.Argument(help="The end image; - if there is none.")] = _NO_IMAGE,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A threshold, e.g. psnr=25; a wrong name lists them all."),
    ] = None,
    fit: Annotated[str, typer.Option(help="How images of another shape fit: crop, pad or stretch.")] = "crop",
    background: Annotated[str, typer.Option(help="Colour behind transparent and padded images.")] = "#000000",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Save the plot as this PNG file.")] = None,
    segments: Annotated[int, typer.Option(help="How many segments it was joined from: each seam is measured.")] = 1,
    loop: Annotated[bool, typer.Option("--loop", help="It begins again after its end: that seam is measured.")] = False,
    shared_frames: Annotated[int, typer.Option(help="How many frames one segment has of the one before.")] = 1,
) -> None:
    """Say whether a video begins and ends on its images and what is wrong in between.

    Exit code 0 if nothing is wrong, 1 if something is, 2 if it cannot be judged.
    """
    try:
        from ..quality import report_plot, report_text
        from ..quality.seams import Joined
        from ..quality.video_file import VideoError
    except ImportError as error:
        fail(f"{error.name} is not installed, but report needs it: pip install 'wan-flf2v[report]'.", EXIT_USAGE)
    try:
        check_output(output)
        joined = Joined(segments, loop, shared_frames)
        made = _report(video, (start, end), _thresholds(assignments or []), fit, background, joined)
        if output is not None:
            report_plot.draw(made).save(output, "PNG")
    except KeyboardInterrupt:
        fail("Cancelled.", EXIT_INTERRUPTED)
    except (UsageError, ImageError, VideoError, OSError, ValueError) as error:
        fail(str(error), EXIT_USAGE)
    typer.echo(made.to_json() if as_json else report_text.to_text(made))
    if output is not None:
        say(f"The plot is in {output}.")
    if made.findings:
        raise typer.Exit(EXIT_FAILED)


def _report(
    video: Path, images: tuple[str, str], thresholds: Thresholds, fit: str, background: str, joined: Joined
) -> Report:
    from ..quality.fit import FITS, parse_hex_colour
    from ..quality.report import make_report
    from ..quality.video_file import open_video

    if fit not in FITS:
        raise UsageError(f'--fit is "{fit}", but must be one of: {", ".join(FITS)}.')
    colour = parse_hex_colour("--background", background)
    if not video.is_file():
        raise UsageError(f"{video}: there is no such file. Give the path of a video.")
    start, end = (_fitted(image, fit, colour) for image in images)
    with open_video(video) as source, _bar(source.expected) as tick:
        return make_report(source.frames, source.frame_rate, start, end, thresholds, tick, joined)


def _thresholds(assignments: list[str]) -> Thresholds:
    """Return the thresholds, the defaults with the assignments; ``UsageError`` for what is none."""
    from ..quality.thresholds import Thresholds, numbers

    known = {one.name: one for one in numbers()}
    values: dict[str, float] = {}
    for text in assignments:
        name, _, value = text.partition("=")
        if name not in known or not value:
            raise UsageError(f'"{text}" does not set a threshold. Write NAME=VALUE, with one of: {", ".join(known)}.')
        kind = int if isinstance(known[name].default, int) else float
        try:
            values[name] = kind(value)
        except ValueError as error:
            number = "a whole number" if kind is int else "a number"
            raise UsageError(f'{name} is "{value}", but must be {number}, such as {known[name].default}.') from error
    thresholds = dataclasses.replace(Thresholds(), **values)  # type: ignore[arg-type]  # by its own type, above
    thresholds.check()
    return thresholds


def _fitted(name: str, fit: str, colour: tuple[float, float, float]) -> Fitted | None:
    """Return what fits an image file to a size; None for ``-``."""
    if name == _NO_IMAGE:
        return None
    import numpy as np
    from PIL import Image, ImageOps

    from ..quality.fit import fitted

    check_image(Path(name))
    with Image.open(name) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))
    return lambda width, height: fitted(pixels, width, height, fit, colour)


@contextmanager
def _bar(frames: int) -> Iterator[Callable[[int], None]]:
    """Give what shows how many of the frames are read, in a terminal."""
    if not err.is_terminal:
        yield lambda done: None
        return
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("Reading", total=frames or None)
        yield lambda done: bar.update(task, completed=done)
