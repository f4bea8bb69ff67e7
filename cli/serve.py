"""``wan-flf2v serve`` starts the API; ``token`` makes, lists and revokes tokens, ``workers`` shows its ComfyUIs.

``store copy`` copies the API's file to NATS.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table

from ..client.hosted_api import DEFAULT_PORT
from .shared import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, fail, out, say

if TYPE_CHECKING:
    from ..gateway.jobs.store import Store
    from ..gateway.settings import Settings

_NEEDS = ("av", "filelock", "pydantic_settings")  # what the extra [serve] has and [client] has not
_T = TypeVar("_T")
_tokens = typer.Typer(help="The tokens that clients of the API send.", no_args_is_help=True)
_workers = typer.Typer(help="The ComfyUIs that the API runs requests on.", no_args_is_help=True)
_store = typer.Typer(help="Where the API keeps requests and tokens.", no_args_is_help=True)

_Data = Annotated[
    Path | None, typer.Option("--data", envvar="WAN_FLF2V_DATA", help="Where requests, results and tokens are kept.")
]
_Nats = Annotated[
    str | None,
    typer.Option(
        "--nats",
        envvar="WAN_FLF2V_NATS_URL",
        metavar="URL",
        # No square brackets: typer takes them for markup.
        help="Keep requests and tokens on NATS JetStream, so that several gateways can share them: nats://HOST:PORT or "
        "nats://HOST:PORT/NAME. They must share the folder --data too: it has uploads and results. Needs the extra "
        "cluster.",
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Add ``serve``, ``token``, ``workers`` and ``store`` to the command line."""
    app.command()(serve)
    app.add_typer(_tokens, name="token")
    app.add_typer(_workers, name="workers")
    app.add_typer(_store, name="store")


def serve(
    comfyui: Annotated[
        list[str] | None,
        typer.Option(help="ComfyUI's address (default http://127.0.0.1:8188). Give it once for each of several."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen at; 0 takes a free one.")
    ] = DEFAULT_PORT,
    data: _Data = None,
    nats: _Nats = None,
    config: Annotated[
        Path | None, typer.Option(help="A JSON file with settings; gateway/settings.py has them all.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="The API's address as clients see it, without /v1.")] = None,
    trusted_proxy: Annotated[
        list[str] | None, typer.Option(help="Address of a reverse proxy whose X-Forwarded-* headers count.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Offer the demo's tiny model too.")] = False,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask for no token; on the loopback address only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every response.")] = False,
) -> None:
    """Serve the hosted API in front of one ComfyUI, or several. Requests that were accepted outlive every restart."""
    check_extra()
    from ..gateway.jobs.store import StoreFileError
    from ..gateway.serve import ServeError, default_data
    from ..gateway.serve import serve as serve_api
    from ..gateway.settings import ConfigError, read_settings

    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("wan_flf2v").setLevel(level)
    # aiohttp logs the content of every malformed request. This API's middleware logs its errors.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    given: dict[str, object] = {
        "comfyui_url": comfyui or None,
        "nats_url": nats,
        "base_url": base_url,
        "trusted_proxies": trusted_proxy or None,
    }
    given |= {"demo": demo or None, "auth": False if no_auth else None}
    try:
        changes = {name: value for name, value in given.items() if value is not None}
        settings = read_settings(data or default_data(), config, **changes)
        _hint_token(settings)
        serve_api(settings, host, port, lambda url: say(f"Serving {url}/v1"))
    except (ServeError, ConfigError) as error:
        fail(str(error), EXIT_USAGE)
    except (StoreFileError, OSError) as error:
        fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        fail("Stopped.", EXIT_INTERRUPTED)


@_store.callback()
@_workers.callback()
@_tokens.callback()
def check_extra() -> None:
    """Refuse to go on without what the gateway needs; otherwise a lack would show after a whole run."""
    try:
        for name in _NEEDS:
            importlib.import_module(name)
    except ImportError as error:
        hint = 'pip install "wan-flf2v[serve] @ git+<this repository>"'
        fail(f"The API needs more than the extra [client] ({error}). Install [serve] in its place: {hint}", EXIT_USAGE)


@_tokens.command()
def create(
    name: Annotated[str, typer.Argument(help="The token's name.")],
    data: _Data = None,
    nats: _Nats = None,
    rate: Annotated[int | None, typer.Option(min=1, help="Calls a minute, instead of the settings' limit.")] = None,
    queue: Annotated[int | None, typer.Option(min=0, help="Requests waiting, instead of the settings' limit.")] = None,
) -> None:
    """Make a token and print it. It is shown this once; only its hash is kept."""
    from ..gateway.jobs.tokens import TokenNameError, create_token

    try:
        text, token = _with_store(
            data, nats, lambda store: create_token(store, name, rate_per_minute=rate, queue_limit=queue)
        )
    except TokenNameError as error:
        fail(str(error), EXIT_USAGE)
    say(f"Token {token.name}; its webhooks are signed with {token.webhook_secret}")
    typer.echo(text)


@_tokens.command("list")
def list_tokens(data: _Data = None, nats: _Nats = None) -> None:
    """List the tokens' names and limits."""
    from ..gateway.http.responses import timestamp

    tokens = _with_store(data, nats, lambda store: store.tokens()) if _has_store(data, nats) else []
    if not tokens:
        command = f"wan-flf2v token create NAME {_option(data, nats)}"
        say(f"There is no token in {_place(data, nats)}. `{command}` makes one there.")
        return
    say(f"Tokens in {_place(data, nats)}:")
    table = Table("Name", "Made", "Calls a minute", "Waiting")
    for token in tokens:
        limits = ("default" if limit is None else str(limit) for limit in (token.rate_per_minute, token.queue_limit))
        table.add_row(token.name, timestamp(token.created_at), *limits)
    out.print(table)


@_tokens.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The token's name.")], data: _Data = None, nats: _Nats = None
) -> None:
    """Make a token worthless at once. Requests made with it go on."""
    if not _has_store(data, nats) or not _with_store(data, nats, lambda store: store.revoke_token(name)):
        fail(
            f'There is no token "{name}" in {_place(data, nats)}. `wan-flf2v token list` shows those there are.',
            EXIT_USAGE,
        )
    say(f"Token {name} is revoked.")


@_workers.command("list")
def list_workers(data: _Data = None, nats: _Nats = None) -> None:
    """List the ComfyUIs, and what the gateway last said of each."""
    workers = _with_store(data, nats, lambda store: store.workers()) if _has_store(data, nats) else []
    if not workers:
        command = f"wan-flf2v serve --comfyui URL {_option(data, nats)}"
        say(f"No gateway has run with {_place(data, nats)} yet. `{command}` starts one.")
        return
    table = Table("Worker", "State", "ComfyUI", "Instance", "Request", "Attempt", "Last error")
    for each in workers:
        state = f"{each.state}, drained" if each.drained else each.state
        instance = (each.instance or "")[:8]
        row = (each.version, instance, each.request_id, each.attempt, each.error)
        table.add_row(each.name, state, *(str(value) if value else "" for value in row))
    out.print(table)


@_workers.command()
def drain(
    worker: Annotated[str, typer.Argument(help="Its address, as `workers list` shows it.")],
    data: _Data = None,
    nats: _Nats = None,
    undo: Annotated[bool, typer.Option("--undo", help="Let it get requests again.")] = False,
) -> None:
    """Give a ComfyUI no more requests; the one that it runs goes on. Then it can be stopped."""
    if not _has_store(data, nats) or not _with_store(data, nats, lambda store: store.drain(worker, drained=not undo)):
        fail(
            f'There is no worker "{worker}" in {_place(data, nats)}. `wan-flf2v workers list` shows those there are.',
            EXIT_USAGE,
        )
    say(f"{worker} gets requests again." if undo else f"{worker} gets no more requests.")


@_store.command()
def copy(data: _Data = None, nats: _Nats = None) -> None:
    """Copy tokens and unfinished requests from the file in --data to NATS, for gateways with --nats and that folder."""
    from ..gateway.jobs.opening import copy_to_nats

    if not nats:
        fail("Give --nats URL: where to copy to.", EXIT_USAGE)
    if not _has_store(data, None):
        fail(f"There are no requests or tokens in {_folder(data)}. Give --data FOLDER: what to copy.", EXIT_USAGE)
    tokens, jobs = _run(copy_to_nats(_folder(data), nats))
    say(f"Copied to NATS: {tokens} tokens and {jobs} requests; what was there already is left as it is.")
    say(f"Start no gateway on {_folder(data)} without --nats: it would run these requests too.")


def _folder(data: Path | None) -> Path:
    from ..gateway.serve import default_data

    return data or default_data()


def _place(data: Path | None, nats: str | None) -> Path | str:
    """Return where the store is, in words; an address may have a password in it."""
    return "NATS" if nats else _folder(data)


def _option(data: Path | None, nats: str | None) -> str:
    """Return the option that leads a command to the same store."""
    return "--nats URL" if nats else f"--data {_folder(data)}"


def _has_store(data: Path | None, nats: str | None) -> bool:
    """Say whether there is a store; opening one would make it."""
    from ..gateway.jobs.opening import store_file

    return bool(nats) or store_file(_folder(data)).exists()


def _with_store(data: Path | None, nats: str | None, work: Callable[[Store], Awaitable[_T]]) -> _T:
    from ..gateway.jobs.opening import open_store

    async def go() -> _T:
        store = open_store(_folder(data), nats)
        try:
            return await work(store)
        finally:
            await store.close()

    return _run(go())


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    from ..gateway.jobs.store import StoreError, StoreFileError

    try:
        return asyncio.run(work)
    except (StoreFileError, StoreError, OSError) as error:
        fail(str(error), EXIT_FAILED)


def _hint_token(settings: Settings) -> None:
    """Say how to make a token if there is none."""
    if settings.auth and not _with_store(settings.data, settings.nats_url, lambda store: store.tokens()):
        option = _option(settings.data, settings.nats_url)
        say(f"There is no token yet: wan-flf2v token create NAME {option}")
