"""``wan-flf2v store`` copies, backs up and restores all that an API keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from .shared import EXIT_USAGE, fail, say
from .store_options import (
    DataOption,
    NatsOption,
    check_extra,
    data_folder,
    has_store,
    nats_access,
    run_on_store,
    store_place,
)

_store = typer.Typer(help="Where the API keeps requests and tokens.", callback=check_extra, no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add ``store`` to the command line."""
    app.add_typer(_store, name="store")


@_store.command()
def copy(data: DataOption = None, nats: NatsOption = None) -> None:
    """Copy tokens, added models and unfinished requests from the file in --data to NATS, for gateways with --nats."""
    from ..gateway.jobs.copying import copy_to_nats

    access = nats_access(nats)
    if access is None:
        fail("Give --nats URL: where to copy to.", EXIT_USAGE)
    if not has_store(data, None):
        fail(f"There are no requests or tokens in {data_folder(data)}. Give --data FOLDER: what to copy.", EXIT_USAGE)
    tokens, models, jobs = run_on_store(copy_to_nats(data_folder(data), access))
    say(f"Copied to NATS: {tokens} tokens, {models} models, {jobs} requests; what was there already is left as it is.")
    say(f"Start no gateway on {data_folder(data)} without --nats: it would run these requests too.")


@_store.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.", dir_okay=False)],
    data: DataOption = None,
    nats: NatsOption = None,
) -> None:
    """Write requests, tokens, models, keys, images and results into one file. Gateways may go on meanwhile."""
    from ..gateway.jobs.backup import back_up

    if not has_store(data, nats):
        fail(f"There are no requests or tokens in {store_place(data, nats)}. Give --data FOLDER or --nats.", EXIT_USAGE)
    counts = run_on_store(back_up(file.absolute(), data_folder(data), nats_access(nats)))
    say(f"Backed up {store_place(data, nats)}, {_files(counts)} into {file}. It has secrets in it: keep it safe.")


@_store.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What backup wrote.", exists=True, dir_okay=False)],
    data: DataOption = None,
    nats: NatsOption = None,
) -> None:
    """Restore such a file where there are no requests and tokens yet; start gateways afterwards."""
    from ..gateway.jobs.backup import restore as restore_backup

    counts = run_on_store(restore_backup(file, data_folder(data), nats_access(nats)))
    say(f"Restored {store_place(data, nats)}, {_files(counts)} from {file}. Requests that had not ended go on.")


def _files(counts: Mapping[str, int]) -> str:
    return f"{counts['inputs']} images and {counts['results']} files of results"
