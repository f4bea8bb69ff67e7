"""The store's tables beside the requests: tokens, uploaded files, webhooks owed, and facts shared between processes."""

from __future__ import annotations

import time
from dataclasses import astuple

from .database import Database
from .records import StoredFile, Token, Webhook

_HOST_STATE = "host_state"


class SideTables(Database):
    """What the store keeps besides requests."""

    def tokens(self) -> list[Token]:
        """Return all tokens, oldest first."""
        columns = "name, hash, created_at, webhook_secret, rate_per_minute, queue_limit, id"
        rows = self.read().execute(f"SELECT {columns} FROM tokens ORDER BY created_at, name")  # noqa: S608
        return [Token(*row) for row in rows]

    def add_token(self, token: Token) -> bool:
        """Keep a token; ``False`` if there is one of that name or hash."""
        with self.write() as connection:
            done = connection.execute("INSERT OR IGNORE INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(token))
            return done.rowcount == 1

    def revoke_token(self, name: str) -> bool:
        """Forget a token; ``False`` if there is none of that name. Its requests go on; its name may be used again."""
        with self.write() as connection:
            return connection.execute("DELETE FROM tokens WHERE name = ?", (name,)).rowcount == 1

    def add_file(self, file: StoredFile, max_bytes: int) -> float | None:
        """Keep an uploaded file's record, unless those of its token would be larger than ``max_bytes`` then.

        Returns ``None``, or if there is no room when the oldest of them was uploaded (0 if there is none).
        """
        with self.write() as connection:
            query = "SELECT coalesce(sum(size), 0), coalesce(min(created_at), 0) FROM files WHERE token = ?"
            size, oldest = connection.execute(query, (file.token,)).fetchone()
            if size + file.size > max_bytes:
                return float(oldest)
            connection.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(file))
            return None

    def get_file(self, file_id: str) -> StoredFile | None:
        """Return an uploaded file's record; whose it is, is the caller's to check."""
        row = self.read().execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
        return StoredFile(*row) if row else None

    def files(self) -> list[StoredFile]:
        """Return the records of all uploaded files, oldest first."""
        return [StoredFile(*row) for row in self.read().execute("SELECT * FROM files ORDER BY created_at, id")]

    def remove_file(self, file_id: str) -> bool:
        """Forget an uploaded file; ``False`` if there is none."""
        with self.write() as connection:
            return connection.execute("DELETE FROM files WHERE id = ?", (file_id,)).rowcount == 1

    def due_webhooks(self, now: float, *, lease_s: float = 60.0, limit: int = 20) -> list[Webhook]:
        """Take the webhooks that are due, so that no other process sends them for ``lease_s``; oldest first.

        One that is neither done nor put off by then, because the process died, is due again.
        """
        due = "FROM webhooks WHERE due_at <= ? ORDER BY due_at LIMIT ?"
        if self.read().execute(f"SELECT 1 {due}", (now, limit)).fetchone() is None:
            return []
        with self.write() as connection:
            rows = connection.execute(
                f"SELECT job_id, url, secret, base_url, attempts, first_at {due}",
                (now, limit),
            ).fetchall()
            for row in rows:
                connection.execute("UPDATE webhooks SET due_at = ? WHERE job_id = ?", (now + lease_s, row[0]))
        return [Webhook(*row) for row in rows]

    def webhook_retry(self, job_id: str, due_at: float) -> None:
        """An attempt failed; try again at ``due_at``."""
        with self.write() as connection:
            connection.execute(
                "UPDATE webhooks SET attempts = attempts + 1, due_at = ? WHERE job_id = ?", (due_at, job_id)
            )

    def webhook_done(self, job_id: str) -> None:
        """The message was delivered, or is given up."""
        with self.write() as connection:
            connection.execute("DELETE FROM webhooks WHERE job_id = ?", (job_id,))

    def set_host_state(self, state: str) -> None:
        """Share how ComfyUI is doing: ``"ok"``, or ``"down: …"`` with the reason."""
        with self.write(durable=False) as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (_HOST_STATE, state, time.time()))

    def host_state(self) -> tuple[str, float]:
        """Return what the dispatching process last said of ComfyUI, and when; ``("unknown", 0)`` before the first."""
        row = self.read().execute("SELECT value, at FROM facts WHERE name = ?", (_HOST_STATE,)).fetchone()
        return (row[0], row[1]) if row else ("unknown", 0.0)
