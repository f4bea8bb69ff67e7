"""Which store the commands of an API's operator work on: the options --data and --nats, and opening it there."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .shared import EXIT_FAILED, EXIT_USAGE, fail

if TYPE_CHECKING:
    from ..gateway.jobs.store import Store
    from ..gateway.settings import NatsAccess

_NEEDS = ("av", "filelock", "pydantic_settings")  # what the extra [serve] has and [client] has not
_T = TypeVar("_T")

DataOption = Annotated[
    Path | None, typer.Option("--data", envvar="WAN_FLF2V_DATA", help="Where requests, results and tokens are kept.")
]
NatsOption = Annotated[
    str | None,
    typer.Option(
        "--nats",
        envvar="WAN_FLF2V_NATS_URL",
        metavar="URL",
        # No square brackets: typer takes them for markup.
        help="Keep requests and tokens on NATS JetStream, so that several gateways can share them: nats://HOST:PORT or "
        "nats://HOST:PORT/NAME. Each has a folder --data for itself. Needs the extra cluster.",
    ),
]


def check_extra() -> None:
    """Refuse to go on without what the gateway needs; otherwise a lack would show after a whole run."""
    try:
        for name in _NEEDS:
            importlib.import_module(name)
    except ImportError as error:
        hint = 'pip install "wan-flf2v[serve] @ git+<this repository>"'
        fail(f"The API needs more than the extra [client] ({error}). Install [serve] in its place: {hint}", EXIT_USAGE)


def data_folder(data: Path | None) -> Path:
    """Return the folder of the option, or the default one."""
    from ..gateway.serve import default_data

    return data or default_data()


def store_place(data: Path | None, nats: str | None) -> Path | str:
    """Return where the store is, in words; an address may have a password in it."""
    return "NATS" if nats else data_folder(data)


def store_option(data: Path | None, nats: str | None) -> str:
    """Return the option that leads a command to the same store."""
    return "--nats URL" if nats else f"--data {data_folder(data)}"


def nats_access(nats: str | None) -> NatsAccess | None:
    """Return how NATS is reached: by the option, and the variables of its user and certificates."""
    from ..gateway.settings import ConfigError, read_settings

    try:
        return read_settings(Path(), None, nats_url=nats).nats if nats else None
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)


def has_store(data: Path | None, nats: str | None) -> bool:
    """Say whether there is a store; opening one would make it."""
    from ..gateway.jobs.opening import store_file

    return bool(nats) or store_file(data_folder(data)).exists()


def with_store(data: Path | None, nats: str | None, work: Callable[[Store], Awaitable[_T]]) -> _T:
    """Open the store of the options, do the work and close it; an error of it ends the program with its text."""
    return with_store_at(data_folder(data), nats_access(nats), work)


def with_store_at(data: Path, nats: NatsAccess | None, work: Callable[[Store], Awaitable[_T]]) -> _T:
    """Open a store, do the work and close it; an error of the store ends the program with its text."""
    from ..gateway.jobs.opening import open_store

    async def go() -> _T:
        store = open_store(data, nats)
        try:
            return await work(store)
        finally:
            await store.close()

    return run_on_store(go())


def run_on_store(work: Coroutine[Any, Any, _T]) -> _T:
    """Do the work; an error of a store ends the program with its text."""
    from ..gateway.jobs.store import StoreError, StoreFileError

    try:
        return asyncio.run(work)
    except (StoreFileError, StoreError, OSError) as error:
        fail(str(error), EXIT_FAILED)
