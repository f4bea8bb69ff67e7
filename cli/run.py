"""``wan-flf2v run`` makes a video on any ComfyUI that has the node pack; ``params`` lists the parameters."""

from __future__ import annotations

import asyncio
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated

import typer
from rich.table import Table

from ..client.comfy import ComfyClient, OutputFile
from ..client.errors import ComfyError, ServerAddressError
from ..client.images import ImageError, check_image, plain_file
from ..client.run import check_graph, run_graph
from ..contract.parameters import END_IMAGE, HOSTED, PROMPT, START_IMAGE, Parameter, Value
from ..contract.validation import ContractError, FieldError, allowed, validate
from ..contract.workflow import fill, load_graph
from .progress_bar import ProgressRenderer
from .shared import (
    DEFAULT_SERVER,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    UsageError,
    check_output,
    err,
    fail,
    merge_assignments,
    node_info,
    out,
    say,
)

_OPTIONS = {START_IMAGE.key: "--start", END_IMAGE.key: "--end", PROMPT.key: "--prompt"}
_PACK_NODE = "WanFLF2VSampler"

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wan-flf2v {metadata.version('wan-flf2v')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Two images and a prompt become a video, on any ComfyUI that has the wan-flf2v nodes."""


@app.command()
def run(
    start: Annotated[Path | None, typer.Option(help="The first frame: an image file.")] = None,
    end: Annotated[Path | None, typer.Option(help="The last frame: an image file.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What happens in between.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A parameter, e.g. 57_steps=12; `wan-flf2v params` lists them."
        ),
    ] = None,
    server: Annotated[str, typer.Option(envvar="COMFYUI_URL", help="ComfyUI's address.")] = DEFAULT_SERVER,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The video file (default: ComfyUI's name for it, here).")
    ] = None,
) -> None:
    """Make a video: check everything, upload, queue, show progress, download. Ctrl-C cancels this run only."""
    options = zip(_OPTIONS, (start, end, prompt), strict=True)
    try:
        given = {key: str(value) for key, value in options if value is not None}
        values = _read_values(given, assignments or [])
        check_output(output)
        path, seconds = asyncio.run(_make_video(values, server, output))
    except KeyboardInterrupt:
        fail("Cancelled.", EXIT_INTERRUPTED)
    except (ContractError, ImageError, UsageError, ServerAddressError) as error:
        fail(str(error), EXIT_USAGE)
    except (ComfyError, OSError) as error:
        fail(str(error), EXIT_FAILED)
    err.print(f"Done in {seconds:.1f} s.", highlight=False)
    out.print(str(path), markup=False, highlight=False, soft_wrap=True)


@app.command()
def params(
    as_tsv: Annotated[bool, typer.Option("--tsv", help="Print one line a parameter, its fields between tabs.")] = False,
) -> None:
    """List the parameters that --set takes."""
    if as_tsv:
        for parameter in HOSTED.parameters:
            typer.echo("\t".join((parameter.key, parameter.title, allowed(parameter), _default(parameter))))
        return
    table = Table(title=HOSTED.model_id)
    for name in ("Key", "Title", "Takes", "Default"):
        table.add_column(name, overflow="fold", min_width=20 if name == "Takes" else None)  # 2**64 - 1 in one line
    for parameter in HOSTED.parameters:
        title = f"{parameter.title}\n[dim]{parameter.description}[/dim]" if parameter.description else parameter.title
        table.add_row(parameter.key, title, allowed(parameter), _default(parameter))
    out.print(table)


def _default(parameter: Parameter) -> str:
    return "required" if parameter.required else str(parameter.default)


def _read_values(given: dict[str, str], assignments: list[str]) -> dict[str, Value]:
    """Merge options and assignments and check all of it; every problem is reported at once."""
    values, errors = merge_assignments(HOSTED, given, assignments)
    try:
        checked = validate(HOSTED, values)
    except ContractError as error:
        errors += [_name_option(field) for field in error.errors]
    if errors:
        raise ContractError(errors)
    for parameter in (START_IMAGE, END_IMAGE):
        check_image(Path(str(checked[parameter.key])))
    return checked


def _name_option(error: FieldError) -> FieldError:
    """Tell a person at the command line which option is missing."""
    option = _OPTIONS.get(error.loc[0])
    if error.type != "missing" or option is None:
        return error
    return FieldError(error.loc, f"{option} ({HOSTED.parameter(error.loc[0]).title}) is missing.", error.type)


async def _make_video(values: dict[str, Value], server: str, output: Path | None) -> tuple[Path, float]:
    """Return the downloaded file and the server's time for the run in seconds."""
    async with ComfyClient(server) as client:
        await client.system_stats()
        await node_info(client, _PACK_NODE)
        for warning in await check_graph(client, fill(load_graph(HOSTED.workflow), HOSTED, values)):
            say(f"Warning: {warning}", "yellow")
        for parameter in (START_IMAGE, END_IMAGE):
            path = Path(str(values[parameter.key]))
            with plain_file(path) as image:
                values[parameter.key] = await client.upload_image(image, shown=path)
        graph = fill(load_graph(HOSTED.workflow), HOSTED, values)
        with ProgressRenderer(err) as show:
            result = await run_graph(client, graph, on_progress=show)
        file = next((file for file in result.files if file.type == "output"), result.files[0])
        path = await client.download(file, output or _free_path(file))
    return path, result.seconds


def _free_path(file: OutputFile) -> Path:
    """Return the server's file name in the current folder, numbered if it is taken."""
    name = PureWindowsPath(PurePosixPath(file.filename).name).name  # never a path that the server chooses
    path = Path(name)
    number = 2
    while path.exists():
        path = Path(f"{Path(name).stem}-{number}{Path(name).suffix}")
        number += 1
    return path
