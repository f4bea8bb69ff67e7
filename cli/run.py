"""``wan-flf2v run`` makes a video on any ComfyUI that has the node pack; ``params`` lists the parameters."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any

import typer

from ..client.comfy import ComfyClient, OutputFile
from ..client.errors import ComfyError, ServerAddressError
from ..client.images import ImageError, check_image, plain_file
from ..client.offers import describe
from ..client.run import check_graph, run_graph
from ..contract.parameters import END_IMAGE, HOSTED, PROMPT, START_IMAGE, NodeInput
from ..contract.workflow import Graph, node_title, settable, ui_form
from .progress_bar import ProgressRenderer
from .shared import (
    DEFAULT_SERVER,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    Inputs,
    UsageError,
    check_output,
    err,
    fail,
    node_info,
    out,
    parameters_of,
    print_inputs,
    say,
)
from .workflows import (
    Assignment,
    LoraHighOption,
    LoraLowOption,
    Workflow,
    add_loras,
    assign,
    no_place,
    read_assignments,
    read_workflow,
    size_assignments,
)

_REQUIRED = {"--prompt": PROMPT, "--start": START_IMAGE, "--end": END_IMAGE}
_PACK_NODE = "WanFLF2VSampler"
_WorkflowOption = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="A template, or a file that ComfyUI exported in API form.")
]

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
    negative: Annotated[str | None, typer.Option(help="What must not happen, instead of Wan's own text.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="The video's size, e.g. 720x1280.")] = None,
    workflow: _WorkflowOption = HOSTED.workflow,
    lora_high: LoraHighOption = None,
    lora_low: LoraLowOption = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any input, e.g. 57_steps=12, or 63_image=FILE for an image here or in ComfyUI's input folder; "
            "`wan-flf2v params --workflow …` lists all.",
        ),
    ] = None,
    server: Annotated[str, typer.Option(envvar="COMFYUI_URL", help="ComfyUI's address.")] = DEFAULT_SERVER,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The video file (default: ComfyUI's name for it, here).")
    ] = None,
) -> None:
    """Make a video: check everything, upload, queue, show progress, download. Ctrl-C cancels this run only."""
    texts = {"--prompt": prompt, "--negative": negative}
    files = {"--start": start, "--end": end}
    try:
        chosen = read_workflow(workflow)
        images, values = _read_options(chosen, texts, files, assignments or [])
        values += size_assignments(chosen, size) if size is not None else []
        values += add_loras(chosen, lora_high, lora_low)
        _refuse_twice([*images, *values])
        check_output(output)
        path, seconds = asyncio.run(_make_video(chosen, images, values, server, output))
    except KeyboardInterrupt:
        fail("Cancelled.", EXIT_INTERRUPTED)
    except (ImageError, UsageError, ServerAddressError) as error:
        fail(str(error), EXIT_USAGE)
    except (ComfyError, OSError) as error:
        fail(str(error), EXIT_FAILED)
    err.print(f"Done in {seconds:.1f} s.", highlight=False)
    out.print(str(path), markup=False, highlight=False, soft_wrap=True)


@app.command()
def params(
    workflow: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="List every input of this workflow that `run --set` takes."),
    ] = None,
    as_tsv: Annotated[bool, typer.Option("--tsv", help="Print one line a parameter, its fields between tabs.")] = False,
) -> None:
    """List the parameters of the hosted API, or every input of a workflow."""
    if workflow is None:
        listed = parameters_of(HOSTED)
    else:
        try:
            chosen = read_workflow(workflow)
        except UsageError as error:
            fail(str(error), EXIT_USAGE)
        graph = chosen.graph
        rows = [
            (f"{node_id}_{name}", node_title(graph, node_id), "", str(graph[node_id]["inputs"][name]))
            for node_id, name in settable(graph)
        ]
        listed = Inputs(chosen.name, ("Key", "Node", "Value"), rows)
    if as_tsv:
        for key, name, _, *rest in listed.rows:
            typer.echo("\t".join((key, name, *rest)))
        return
    print_inputs(listed)


def _read_options(
    workflow: Workflow, texts: dict[str, str | None], files: dict[str, Path | None], assignments: list[str]
) -> tuple[list[Assignment], list[Assignment]]:
    """Return the images' files and the values that are given; every problem that needs no server is told at once."""
    given, errors = read_assignments(workflow, assignments)
    takes_image = workflow.images()
    images = [one for one in given if one.target in takes_image and Path(one.text).is_file()]
    values = [one for one in given if one not in images]
    set_inputs = {one.target for one in given}
    for option, value in {**texts, **files}.items():
        places = workflow.places(option)
        if value is None:
            continue
        if not places or (len(places) > 1 and isinstance(value, Path)):
            errors.append(no_place(workflow, option, places))
        elif option == "--negative" and places == workflow.places("--prompt"):
            errors.append(
                "--negative has no text here: the workflow makes the negative prompt from the prompt's own text."
            )
        else:
            filled = [place for place in places if place not in set_inputs] or places
            made = [Assignment(option, place, str(value)) for place in filled]
            (images if isinstance(value, Path) else values).extend(made)
    if workflow.template:
        errors += _missing(workflow, {one.target for one in (*images, *values)})
    if errors:
        raise UsageError("\n".join(errors))
    for image in images:
        check_image(Path(image.text))
    return images, values


def _missing(workflow: Workflow, given: Collection[NodeInput]) -> list[str]:
    """Say which images and prompts of a template nobody gave: what it has there only holds their places."""
    options: dict[NodeInput, str] = {}
    for option in _REQUIRED:
        for place in workflow.places(option):
            options.setdefault(place, option)  # in a loop, both ends are one image
    missing = [target for target in (*options, *workflow.images()) if target not in given]
    return list(dict.fromkeys(_is_missing(workflow, target, options.get(target)) for target in missing))


def _is_missing(workflow: Workflow, target: NodeInput, option: str | None) -> str:
    if option is not None:
        return f"{option} ({_REQUIRED[option].title}) is missing."
    key = f"{target.node_id}_{target.name}"
    return f"{key} ({node_title(workflow.graph, target.node_id)}) is missing. Give it with --set {key}=FILE."


def _refuse_twice(given: list[Assignment]) -> None:
    """Raise ``UsageError`` if an input gets two values."""
    seen: dict[NodeInput, str] = {}
    for one in given:
        if one.target in seen:
            both = " and ".join(dict.fromkeys((seen[one.target], one.label)))
            raise UsageError(f"{one.target.node_id}_{one.target.name} is given twice ({both}). Give it once.")
        seen[one.target] = one.label


async def _make_video(
    workflow: Workflow, images: list[Assignment], values: list[Assignment], server: str, output: Path | None
) -> tuple[Path, float]:
    """Return the downloaded file and the server's time for the run in seconds."""
    graph = workflow.graph
    async with ComfyClient(server) as client:
        await client.system_stats()
        await node_info(client, _PACK_NODE)
        infos = await describe(client, graph)
        errors = [
            f"ComfyUI at {client.url} has no node {kind}. Install or update the node pack that brings it."
            for kind, info in infos.items()
            if info is None
        ]
        errors = errors or assign(graph, infos, values)
        if errors:
            raise UsageError("\n".join(errors))
        for warning in await check_graph(client, graph):
            say(f"Warning: {warning}", "yellow")
        for given in images:
            path = Path(given.text)
            with plain_file(path) as image:
                name = await client.upload_image(image, shown=path)
            graph[given.target.node_id]["inputs"][given.target.name] = name
        with ProgressRenderer(err) as show:
            result = await run_graph(client, graph, on_progress=show, workflow=_form(workflow, graph))
        files = [file for file in result.files if file.type == "output"] or result.files
        saved = await client.download(files[0], output or _free_path(files[0]))
        if len(files) > 1:
            say(f"This run made {len(files)} files. Only the first was downloaded: all are in ComfyUI's output folder.")
    return saved, result.seconds


def _form(workflow: Workflow, graph: Graph) -> dict[str, Any] | None:
    """Return a template's UI form with the run's values; ``None`` if it lacks nodes of the graph, such as LoRAs."""
    if workflow.template is None:
        return None
    form = ui_form(workflow.template, graph)
    return form if graph.keys() <= {str(node["id"]) for node in form["nodes"]} else None


def _free_path(file: OutputFile) -> Path:
    """Return the server's file name in the current folder, numbered if it is taken."""
    name = PureWindowsPath(PurePosixPath(file.filename).name).name  # never a path that the server chooses
    path = Path(name)
    number = 2
    while path.exists():
        path = Path(f"{Path(name).stem}-{number}{Path(name).suffix}")
        number += 1
    return path
