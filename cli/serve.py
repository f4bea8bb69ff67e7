"""``wan-flf2v serve`` starts the API, ``worker`` connects a ComfyUI to it by NATS, ``workers`` shows its ComfyUIs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..client.hosted_api import DEFAULT_PORT
from .shared import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, fail, out, say
from .store_options import (
    DataOption,
    NatsOption,
    check_extra,
    has_store,
    store_option,
    store_place,
    with_store,
    with_store_at,
)

if TYPE_CHECKING:
    from ..gateway.settings import Settings

_workers = typer.Typer(help="The ComfyUIs that the API runs requests on.", callback=check_extra, no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add ``serve``, ``worker`` and ``workers`` to the command line."""
    app.command()(serve)
    app.command()(worker)
    app.add_typer(_workers, name="workers")


def serve(
    comfyui: Annotated[
        list[str] | None,
        typer.Option(help="ComfyUI's address (default http://127.0.0.1:8188). Give it once for each of several."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen at; 0 takes a free one.")
    ] = DEFAULT_PORT,
    data: DataOption = None,
    nats: NatsOption = None,
    nats_monitor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="The monitoring port of NATS, http://HOST:8222: do not start unless it syncs each write to disk. Give "
            "one for each server.",
        ),
    ] = None,
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

    _log(logging.DEBUG if verbose else logging.INFO)
    given: dict[str, object] = {
        "comfyui_url": comfyui or None,
        "nats_url": nats,
        "nats_monitor_url": nats_monitor or None,
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


def worker(
    nats: Annotated[
        str | None,
        typer.Option(
            "--nats", envvar="WAN_FLF2V_NATS_URL", metavar="URL", help="The address of NATS, as the gateways have it."
        ),
    ] = None,
    comfyui: Annotated[str | None, typer.Option(help="ComfyUI's address (default http://127.0.0.1:8188).")] = None,
    name: Annotated[
        str | None, typer.Option(help="How `workers list` calls it, by default as this machine is called.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A JSON file with settings: those whose names begin with nats and comfyui.")
    ] = None,
) -> None:
    """Run requests of gateways with --nats on the ComfyUI beside this, which they cannot reach. It connects to NATS.

    SIGTERM or Ctrl-C lets it end after the request that it runs; the second time it ends at once.
    """
    check_extra()
    from ..gateway.jobs.opening import CLUSTER
    from ..gateway.jobs.store import StoreFileError
    from ..gateway.serve import default_data
    from ..gateway.settings import COMFYUI, ConfigError, read_settings

    _log(logging.INFO)
    given = {"nats_url": nats, "comfyui_url": comfyui}
    try:
        changes = {key: value for key, value in given.items() if value is not None}
        settings = read_settings(default_data(), config, **changes)
        if not settings.comfyui_urls:
            settings = settings.model_copy(update={"comfyui_url": COMFYUI})
        from ..gateway.outward_worker import default_name, run_worker

        asyncio.run(run_worker(settings, name or default_name()))
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    except ImportError as error:
        fail(f"A worker needs the extra [cluster] ({error}): {CLUSTER}", EXIT_USAGE)
    except (StoreFileError, OSError) as error:
        fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        fail("Stopped.", EXIT_INTERRUPTED)


def _log(level: int) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("wan_flf2v").setLevel(level)
    # aiohttp logs the content of every malformed request. This API's middleware logs its errors.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


@_workers.command("list")
def list_workers(data: DataOption = None, nats: NatsOption = None) -> None:
    """List the ComfyUIs, and what the gateway last said of each."""
    workers = with_store(data, nats, lambda store: store.workers()) if has_store(data, nats) else []
    if not workers:
        command = f"wan-flf2v serve --comfyui URL {store_option(data, nats)}"
        say(f"No gateway has run with {store_place(data, nats)} yet. `{command}` starts one.")
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
    worker: Annotated[str, typer.Argument(help="Its address or name, as `workers list` shows it.")],
    data: DataOption = None,
    nats: NatsOption = None,
    undo: Annotated[bool, typer.Option("--undo", help="Let it get requests again.")] = False,
) -> None:
    """Give a ComfyUI no more requests; the one that it runs goes on. Then it can be stopped."""
    if not has_store(data, nats) or not with_store(data, nats, lambda store: store.drain(worker, drained=not undo)):
        fail(
            f'There is no worker "{worker}" in {store_place(data, nats)}. `wan-flf2v workers list` shows those there '
            "are.",
            EXIT_USAGE,
        )
    say(f"{worker} gets requests again." if undo else f"{worker} gets no more requests.")


def _hint_token(settings: Settings) -> None:
    """Say how to make a token if there is none."""
    if settings.auth and not with_store_at(settings.data, settings.nats, lambda store: store.tokens()):
        option = store_option(settings.data, settings.nats_url)
        say(f"There is no token yet: wan-flf2v token create NAME {option}")
