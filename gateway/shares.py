"""Shares a few slots between tokens: no token holds all of them, and tokens that wait take turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator


class Shares:
    """``total`` slots, of which one token holds at most ``each``. For one event loop."""

    def __init__(self, total: int, each: int) -> None:
        self._free = total
        self._each = each
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # token -> who waits; the next token comes first

    @contextlib.asynccontextmanager
    async def slot(self, token: str) -> AsyncIterator[None]:
        """Hold a slot for the token with this id; wait until it may have one."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(token, deque()).append(waiter)
        self._hand_out()
        try:
            await waiter
            yield
        finally:
            if waiter.done() and not waiter.cancelled():
                self._free += 1
                self._held[token] -= 1
                if not self._held[token]:
                    del self._held[token]
            self._hand_out()

    def _hand_out(self) -> None:
        """Give the free slots to the tokens that come first; one that got a slot comes last next time."""
        while self._free:
            token = next((token for token in self._waiting if self._held[token] < self._each), None)
            if token is None:
                return
            queue = self._waiting.pop(token)
            waiter = queue.popleft()
            if queue:
                self._waiting[token] = queue
            if not waiter.cancelled():
                self._free -= 1
                self._held[token] += 1
                waiter.set_result(None)
