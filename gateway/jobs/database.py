"""One SQLite file, shared by threads and processes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BUSY_TIMEOUT_S = 30.0  # how long a writer waits for another one

_SCHEMAS = (
    """
CREATE TABLE jobs (
    position_key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    token TEXT NOT NULL,
    model_id TEXT NOT NULL,
    "values" TEXT NOT NULL,
    inputs TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'in_queue',
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    submitted INTEGER NOT NULL DEFAULT 0,
    host TEXT,
    on_host INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    output TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    host_deaths INTEGER NOT NULL DEFAULT 0,
    progress TEXT,
    detail TEXT NOT NULL DEFAULT '{}',
    version INTEGER NOT NULL DEFAULT 1,
    expired INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_by_status ON jobs (status, position_key);
CREATE INDEX jobs_by_token ON jobs (token, status);
CREATE INDEX jobs_by_end ON jobs (expired, finished_at);
CREATE INDEX jobs_on_host ON jobs (on_host, finished_at);
CREATE TABLE idempotency (
    token TEXT NOT NULL,
    key TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    job_id TEXT NOT NULL REFERENCES jobs (id),
    PRIMARY KEY (token, key)
);
CREATE INDEX idempotency_by_job ON idempotency (job_id);
CREATE TABLE webhooks (
    job_id TEXT PRIMARY KEY REFERENCES jobs (id),
    url TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    first_at REAL,
    due_at REAL
);
CREATE INDEX webhooks_by_due ON webhooks (due_at);
CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    created_at REAL NOT NULL,
    webhook_secret TEXT,
    rate_per_minute INTEGER,
    queue_limit INTEGER
);
CREATE TABLE files (
    id TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    name TEXT NOT NULL,
    stored TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL, at REAL NOT NULL);
""",
    # What belongs to a token was kept under its name before.
    """
ALTER TABLE tokens ADD COLUMN id TEXT NOT NULL DEFAULT '';
UPDATE tokens SET id = name;
CREATE UNIQUE INDEX tokens_by_id ON tokens (id);
ALTER TABLE webhooks ADD COLUMN secret TEXT;
ALTER TABLE webhooks ADD COLUMN base_url TEXT;
UPDATE webhooks SET secret = (
    SELECT webhook_secret FROM tokens JOIN jobs ON tokens.id = jobs.token WHERE jobs.id = webhooks.job_id
);
""",
)
SCHEMA_VERSION = len(_SCHEMAS)  # each is what leads there from the one before


class DatabaseVersionError(RuntimeError):
    """The file was written by a newer version of this program."""


class Database:
    """Connections to one file, one for each thread. What a ``write`` block did is on the disk when it is left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._lock = threading.Lock()
        # Writers of one process wait here for each other: SQLite would let them sleep and try again, in no order.
        self._write_lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)  # SQLite gives the files beside it the same mode
        with self.write() as connection:
            self._create(connection)

    def close(self) -> None:
        """Close all connections, after a write that is under way. A method that is called later raises."""
        with self._write_lock, self._lock:
            self._closed = True
            for connection in self._connections:
                connection.close()

    def check(self) -> str:
        """Return SQLite's verdict on the file: ``"ok"``, or what is wrong."""
        return str(self.read().execute("PRAGMA integrity_check").fetchone()[0])

    def read(self) -> sqlite3.Connection:
        """Return this thread's connection, for a single SELECT: each sees the latest commit of any process."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        return connection or self._connect()

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Hold the write lock for a transaction: committed when the block ends, rolled back if it raises.

        With ``durable=False`` a power cut may lose it (a crash of this process does not): for what is soon
        overwritten.
        """
        with self._write_lock:
            connection = self.read()
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        self._local.connection = connection
        with self._lock:
            if self._closed:
                connection.close()
                raise sqlite3.ProgrammingError("The store is closed.")
            self._connections.append(connection)
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise DatabaseVersionError(
                f"{self._path} was written by a newer version of wan-flf2v (schema {found}, this one knows "
                f"{SCHEMA_VERSION}). Update wan-flf2v, or use another data folder."
            )
        for version, schema in enumerate(_SCHEMAS[found:], found + 1):
            for statement in schema.split(";"):  # executescript would commit the transaction
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={version}")
