"""``wan-flf2v requests trace`` shows an API's operator what became of a request."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from .shared import EXIT_USAGE, fail, out
from .store_options import DataOption, NatsOption, check_extra, has_store, store_place, with_store

_requests = typer.Typer(
    help="The requests of all clients, for operators of the API.", callback=check_extra, no_args_is_help=True
)


def add_commands(app: typer.Typer) -> None:
    """Add ``requests`` to the command line."""
    app.add_typer(_requests, name="requests")


@_requests.command()
def trace(
    request_id: Annotated[str, typer.Argument(help="The request's id.", metavar="ID")],
    data: DataOption = None,
    nats: NatsOption = None,
) -> None:
    """Print a request's transitions: when it got which state, in which attempt, on which ComfyUI, and why."""
    from ..gateway.http.responses import timestamp
    from ..gateway.jobs.records import Job, Transition
    from ..gateway.jobs.store import Store

    async def read(store: Store) -> tuple[Job | None, list[Transition]]:
        return await store.get(request_id), await store.history(request_id)

    job, history = with_store(data, nats, read) if has_store(data, nats) else (None, [])
    if job is None:
        fail(f"There is no request {request_id} in {store_place(data, nats)}.", EXIT_USAGE)
    table = Table("Time", "State", "Attempt", "Worker", "Reason")
    for each in history:
        row = each.status, each.attempt or "", each.worker or "", each.reason or ""
        table.add_row(timestamp(each.at), *map(str, row))
    out.print(table)
