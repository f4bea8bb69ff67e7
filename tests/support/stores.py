"""Job stores for tests: every implementation by name, and a wrapper whose methods block."""

import asyncio
import contextlib
import functools
import hashlib
import os
import sqlite3

import pytest
from wan_flf2v.gateway.jobs.jetstream_store import JetStreamStore
from wan_flf2v.gateway.jobs.opening import open_store
from wan_flf2v.gateway.jobs.sqlite_store import SqliteStore
from wan_flf2v.gateway.settings import NatsAccess

from support.nats_server import shared_server

CHOSEN = "TEST_STORE"  # the variable that says on which store the tests of the gateway run
STORES = {
    "sqlite": lambda folder: SqliteStore(folder / "store.sqlite3"),
    "jetstream": lambda folder: JetStreamStore(NatsAccess(fleet_url(folder))),
}
sqlite_only = pytest.mark.skipif("config.getoption('store') != 'sqlite'", reason="it is about SQLite's file")


def fleet_url(folder):
    """Return the address of the fleet that belongs to a data folder, on the server that the tests share."""
    return f"{shared_server()}/{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def nats_url(folder):
    """Return the setting ``nats_url`` of an API with this data folder, on the store that was chosen for the tests."""
    return fleet_url(folder) if os.environ.get(CHOSEN) == "jetstream" else None


def chosen_store(folder):
    """Open the store of a data folder, of the kind that was chosen for the tests."""
    url = nats_url(folder)
    return open_store(folder, NatsAccess(url) if url else None)


class Blocking:
    """``store`` with methods that block until they are done."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        member = getattr(self.store, name)
        if not callable(member):
            return member

        @functools.wraps(member)
        def call(*args, **kwargs):
            return asyncio.run(member(*args, **kwargs))

        return call


def sql(store, statement, *values):
    """Run one SQL statement on the file of a SQLite store, beside it; return the rows."""
    if not isinstance(store, SqliteStore):
        pytest.skip("it changes SQLite's file")
    path = store._reader._database.execute("PRAGMA database_list").fetchone()[2]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()
