"""What the commands share: exit codes, messages, checks of -o and the server, KEY=VALUE assignments, time left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..client.comfy import ComfyClient
from ..contract.parameters import ModelContract
from ..contract.validation import ContractError, FieldError, allowed, parse_assignment

EXIT_FAILED = 1  # the server or the run failed
EXIT_USAGE = 2  # wrong usage or values; nothing was queued
EXIT_INTERRUPTED = 130  # Ctrl-C
DEFAULT_SERVER = "http://127.0.0.1:8188"  # ComfyUI's own default

out = Console()
err = Console(stderr=True)


class UsageError(Exception):
    """The command line asks for something impossible; nothing was queued."""


def say(message: str, style: str = "") -> None:
    """Print a message for the user beside the output."""
    err.print(message, style=style, markup=False, highlight=False, soft_wrap=True)


def fail(message: str, code: int) -> NoReturn:
    """Say why the command failed, and exit."""
    say(message, "red")
    raise typer.Exit(code)


def check_output(output: Path | None) -> None:
    """Raise ``UsageError`` if no file with this name can be written."""
    if output is None:
        return
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder. Name the video file, such as {output / 'out.mp4'}.")
    if not output.parent.is_dir():
        raise UsageError(f"-o {output}: there is no folder {output.parent}. Create it first.")


async def node_info(client: ComfyClient, node: str) -> dict[str, Any]:
    """Return ComfyUI's description of a node of the pack; ``UsageError`` if it does not have the node."""
    info = await client.object_info(node)
    if info is None:
        raise UsageError(
            f"ComfyUI at {client.url} does not have the wan-flf2v nodes. Install the wan-flf2v node pack in its "
            "custom_nodes folder (or update it) and restart it."
        )
    return info


class Inputs(NamedTuple):
    """A table of inputs; the third text of each row is a description, which stands below the second."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def parameters_of(model: ModelContract) -> Inputs:
    """Return what each parameter takes, and its default."""
    rows = [
        (one.key, one.title, one.description, allowed(one), "required" if one.required else str(one.default))
        for one in model.parameters
    ]
    return Inputs(model.model_id, ("Key", "Title", "Takes", "Default"), rows)


def print_inputs(inputs: Inputs) -> None:
    """Print the table."""
    table = Table(title=escape(inputs.title))
    for name in inputs.columns:
        table.add_column(name, overflow="fold", min_width=20 if name == "Takes" else None)  # 2**64 - 1 in one line
    for key, name, description, *rest in inputs.rows:
        shown = f"{escape(name)}\n[dim]{escape(description)}[/dim]" if description else escape(name)
        table.add_row(escape(key), shown, *map(escape, rest))
    out.print(table)


def describe_step(node: str, step: int, steps: int, seconds_left: float | None) -> str:
    """Say in one line where a run is: ``57 Sampler, step 3 of 20, 1:40 left``."""
    text = node
    if steps:
        text += f", step {step} of {steps}"
    if seconds_left is not None:
        minutes, seconds = divmod(round(seconds_left), 60)
        text += f", {minutes}:{seconds:02d} left"
    return text


def merge_assignments(
    model: ModelContract, given: dict[str, str], assignments: list[str]
) -> tuple[dict[str, object], list[FieldError]]:
    """Return the values of options and ``KEY=VALUE`` assignments together, and what is wrong with the assignments."""
    values: dict[str, object] = dict(given)
    errors: list[FieldError] = []
    for text in assignments:
        try:
            key, value = parse_assignment(model, text)
        except ContractError as error:
            errors += error.errors
            continue
        if key in values:
            errors.append(FieldError((key,), f"{key} is given twice. Give it once.", "twice"))
        values[key] = value
    return values, errors
