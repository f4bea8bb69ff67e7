"""``wan-flf2v model``: workflows as models of the API, which its operator adds, lists, shows and removes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..client.comfy import ComfyClient
from ..client.derive import DeriveError, derive
from ..client.errors import ComfyError, ServerAddressError
from ..client.offers import describe, lacking_in
from ..contract.parameters import MODELS, ModelContract, NodeInput
from .shared import (
    DEFAULT_SERVER,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    UsageError,
    fail,
    out,
    parameters_of,
    print_inputs,
    say,
)
from .store_options import DataOption, NatsOption, check_extra, has_store, store_option, store_place, with_store
from .workflows import (
    Assignment,
    LoraHighOption,
    LoraLowOption,
    Workflow,
    add_loras,
    assign,
    find_input,
    free_sizes,
    read_workflow,
)

if TYPE_CHECKING:
    from ..gateway.jobs.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_LONGEST_NAME = 100
_NO_MODEL = "categories"  # GET /v1/models/categories lists something else

_models = typer.Typer(
    help="The models of the API: workflows that you add to it. `models` is about the files that ComfyUI loads.",
    callback=check_extra,
    no_args_is_help=True,
)
_Name = Annotated[str, typer.Argument(help="The model's id in the API, such as film or mine/4-steps.")]


def add_commands(app: typer.Typer) -> None:
    """Add ``model`` to the command line."""
    app.add_typer(_models, name="model")


@_models.command()
def add(
    name: _Name,
    workflow: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A template, or a file that ComfyUI exported in API form.")
    ],
    expose: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY,KEY,…",
            help="The inputs that requests can set, e.g. 57_steps,68_image; `wan-flf2v params --workflow …` lists all. "
            "By default numbers, prompts, choices and images: never a file or a path, unless you name it here.",
        ),
    ] = None,
    lora_high: LoraHighOption = None,
    lora_low: LoraLowOption = None,
    server: Annotated[
        str, typer.Option(envvar="COMFYUI_URL", help="The address of a ComfyUI that has all nodes of the workflow.")
    ] = DEFAULT_SERVER,
    data: DataOption = None,
    nats: NatsOption = None,
) -> None:
    """Make a workflow a model of the API. Gateways that run offer it at once."""
    try:
        _check_name(name)
        chosen = read_workflow(workflow, "The workflow")
        loras = add_loras(chosen, lora_high, lora_low)
        exposed = _read_exposed(chosen, expose)
        free_sizes(chosen.graph, exposed)
        model, lacking = asyncio.run(_derive(name, chosen, loras, exposed, server))
    except KeyboardInterrupt:
        fail("Stopped.", EXIT_INTERRUPTED)
    except (UsageError, DeriveError, ServerAddressError) as error:
        fail(str(error), EXIT_USAGE)
    except (ComfyError, OSError) as error:
        fail(str(error), EXIT_FAILED)
    if not with_store(data, nats, lambda store: store.add_model(model)):
        fail(
            f"There is a model {name} already in {store_place(data, nats)}. Choose another name, or remove it first: "
            f"wan-flf2v model remove {name} {store_option(data, nats)}",
            EXIT_USAGE,
        )
    say(f"The model {name} is added in {store_place(data, nats)}. POST /v1/models/{name} takes:")
    print_inputs(parameters_of(model))
    if expose is None:
        say("All other inputs stay as they are in the workflow. --expose chooses which can be set.")
    for text in lacking:
        say(f"It cannot run yet. {text}", "yellow")


@_models.command("list")
def list_models(data: DataOption = None, nats: NatsOption = None) -> None:
    """List the models that were added."""
    from ..gateway.http.responses import timestamp

    models = with_store(data, nats, lambda store: store.models()) if has_store(data, nats) else []
    if not models:
        command = f"wan-flf2v model add NAME FILE {store_option(data, nats)}"
        say(f"No model was added in {store_place(data, nats)}. `{command}` adds one.")
        return
    table = Table("Model", "Makes", "Requests can set", "Added")
    for model in models:
        keys = ", ".join(parameter.key for parameter in model.parameters)
        table.add_row(model.model_id, model.category, escape(keys), timestamp(model.added_at))
    out.print(table)


@_models.command()
def show(name: _Name, data: DataOption = None, nats: NatsOption = None) -> None:
    """List what requests can set, with types, ranges and defaults."""
    models = with_store(data, nats, lambda store: store.models()) if has_store(data, nats) else []
    model = next((model for model in models if model.model_id == name), MODELS.get(name))
    if model is None:
        fail(_unknown(name, store_place(data, nats)), EXIT_USAGE)
    print_inputs(parameters_of(model))


@_models.command()
def remove(name: _Name, data: DataOption = None, nats: NatsOption = None) -> None:
    """Take a model out of the API. Its finished requests stay; those that wait for it fail."""

    async def go(store: Store) -> tuple[bool, int]:
        removed = await store.remove_model(name)
        return removed, sum(job.model_id == name and job.status == "in_queue" for job in await store.queue())

    removed, waiting = with_store(data, nats, go) if has_store(data, nats) else (False, 0)
    if not removed:
        fail(_unknown(name, store_place(data, nats)), EXIT_USAGE)
    say(f"The model {name} is removed." + (f" Requests that wait for it will fail: {waiting}." if waiting else ""))


def _check_name(name: str) -> None:
    if name in MODELS:
        raise UsageError(f"{name} is a model that comes with the API. Choose another name.")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME or name == _NO_MODEL:
        raise UsageError(
            f'"{name}" cannot name a model. Use up to {_LONGEST_NAME} letters, digits, ".", "_" and "-", with "/" '
            f'between words, such as mine/4-steps; "{_NO_MODEL}" is taken.'
        )


def _read_exposed(workflow: Workflow, texts: Iterable[str] | None) -> list[NodeInput] | None:
    """Return the inputs that ``--expose`` names, ``None`` without it; ``UsageError`` with a line for each bad key."""
    if texts is None:
        return None
    found, errors = [], []
    for key in (key.strip() for text in texts for key in text.split(",")):
        try:
            found.append(find_input(workflow, key))
        except UsageError as error:
            errors.append(f"--expose: {error}")
    if errors:
        raise UsageError("\n".join(errors))
    return found


async def _derive(
    name: str, workflow: Workflow, loras: list[Assignment], exposed: list[NodeInput] | None, server: str
) -> tuple[ModelContract, list[str]]:
    """Return the model, and what it lacks on this ComfyUI to run."""
    graph = workflow.graph
    async with ComfyClient(server) as client:
        await client.system_stats()
        infos = await describe(client, graph)
    if errors := assign(graph, infos, loras):
        raise UsageError("\n".join(errors))
    return replace(derive(name, graph, infos, exposed), added_at=time.time()), lacking_in(graph, infos)


def _unknown(name: str, place: object) -> str:
    """Say that there is no such model among those that were added."""
    if name in MODELS:
        return f"{name} comes with the API. It cannot be removed."
    return f'There is no model "{name}" in {place}. `wan-flf2v model list` shows those there are.'
