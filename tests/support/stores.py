"""Job stores for tests: every implementation by name, and a wrapper whose methods block."""

import asyncio
import contextlib
import functools
import sqlite3

from wan_flf2v.gateway.jobs.sqlite_store import SqliteStore

STORES = {"sqlite": lambda folder: SqliteStore(folder / "store.sqlite3")}


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
    path = store._reader._database.execute("PRAGMA database_list").fetchone()[2]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()
