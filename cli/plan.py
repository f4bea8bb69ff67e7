"""``wan-flf2v plan``: asks the Plan node of a ComfyUI what a run will do and need."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..client.comfy import ComfyClient
from ..client.errors import ComfyError, ServerAddressError
from ..client.offers import read_value
from ..client.run import run_graph
from ..contract.workflow import Graph
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
    node_info,
    say,
)

_NODE, _ID = "WanFLF2VPlan", "1"


def add_commands(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(plan)


def plan(
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An input of the Plan node, e.g. steps=4 or width=1280."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    server: Annotated[str, typer.Option(envvar="COMFYUI_URL", help="ComfyUI's address.")] = DEFAULT_SERVER,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Save the plot as this PNG file.")] = None,
) -> None:
    """Print what a run will do: steps, hand-over, work and memory. Loads no model. Exit code 1 if it cannot work."""
    try:
        check_output(output)
        shown = asyncio.run(_plan(assignments or [], server, output))
    except KeyboardInterrupt:
        fail("Cancelled.", EXIT_INTERRUPTED)
    except (UsageError, ServerAddressError) as error:
        fail(str(error), EXIT_USAGE)
    except (ComfyError, OSError) as error:
        fail(str(error), EXIT_FAILED)
    typer.echo(shown["json"][0] if as_json else shown["text"][0])
    if output is not None:
        say(f"The plot is in {output}.")
    if json.loads(shown["json"][0])["errors"]:
        raise typer.Exit(EXIT_FAILED)


async def _plan(assignments: list[str], server: str, output: Path | None) -> dict[str, Any]:
    """Return what the node shows: ``text`` and ``json``, lists of one; the plot goes to ``output``."""
    async with ComfyClient(server) as client:
        await client.system_stats()
        inputs = read_inputs(await node_info(client, _NODE), assignments)
        graph: Graph = {_ID: {"class_type": _NODE, "inputs": inputs, "_meta": {"title": "Plan"}}}
        with ProgressRenderer(err) as show:  # other runs may come first
            result = await run_graph(client, graph, on_progress=show if err.is_terminal else None)
        if output is not None:
            await client.download(result.files[0], output)
        return await client.outputs(result.prompt_id, _ID)


def read_inputs(info: Mapping[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Return the node's inputs: the defaults in ComfyUI's description of it (``info``), changed by the assignments.

    Raises ``UsageError`` if an assignment has no ``=``, names no input, or has a value that the input does not take.
    """
    specs: dict[str, Any] = {**info["input"]["required"], **info["input"].get("optional", {})}
    values = {name: spec[1].get("default") for name, spec in specs.items()}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator or name not in specs:
            raise UsageError(f'"{text}" does not set an input. Write NAME=VALUE, with one of: {", ".join(specs)}.')
        try:
            values[name] = read_value(info["input"], name, value)
        except ValueError as error:
            raise UsageError(f"{name} {error}") from error
    return values
