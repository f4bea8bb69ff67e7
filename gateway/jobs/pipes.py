"""Pipes: connections between a gateway and a ComfyUI that it cannot reach, whose bytes go through NATS.

Each pipe joins a socket at the gateway with one at the worker beside the ComfyUI. Below the prefix ``wfw``, with a
fleet's name ``wfw_NAME``, the subjects are

``to.WORKER.RUN.GATEWAY.PIPE``     what a gateway sends to a worker, and
``from.WORKER.RUN.GATEWAY.PIPE``   what it sends back,
``from.WORKER.RUN.hello``          that a worker is there, every two seconds, as JSON, and
``to.WORKER.RUN.note``             what a gateway tells it, as JSON.

RUN is one start of the worker's process, GATEWAY one of a gateway's. Nothing of it is kept by JetStream: what is on its
way when a process ends is gone, as with any connection, and then the job is looked for on its ComfyUI.

A message of a pipe is a letter, a number of eight bytes, and data: ``O`` opens the pipe; ``D`` has data, numbered from
1; ``A`` says up to which number the data was taken; ``C`` closes the pipe. A number that is missing breaks it, as NATS
then lost a message.

Bytes, and no protocol of commands and reports, so that one ``Worker`` serves both kinds of ComfyUI: recovery, cancel,
previews and late results are the same code and the same tests. The price is that the gateway which dispatches relays
all images and videos.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable

PROTOCOL = 1  # of pipes, hellos and notes
WORKER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
OPEN, _DATA, _ACK, _CLOSE = b"O", b"D", b"A", b"C"
_CHUNK_BYTES = 1 << 18  # nats-server takes messages of 1 MiB by default
_WINDOW = 8  # how many messages of data may be on their way
_ACK_S = 90.0  # how long one may be; a ComfyUI that loads a model can take long to read

Send = Callable[[bytes], Awaitable[None]]


def prefix_of(fleet: str) -> str:
    """Return what the subjects of a fleet begin with; ``""`` is the one without a name."""
    return f"wfw_{fleet}" if fleet else "wfw"


class Pipes:
    """One process's ends of its pipes, by key: the last words of their subjects.

    ``publish(key, message)`` sends a message to the other end.
    """

    def __init__(self, publish: Callable[[str, bytes], Awaitable[None]]) -> None:
        self._publish = publish
        self._pipes: dict[str, _Pipe] = {}

    def open(self, key: str, first: bytes = b"") -> socket.socket:
        """Return a socket whose other side is the pipe; ``first`` is the letter of the message that goes ahead."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        pipe = self._pipes[key] = _Pipe(far, lambda message: self._publish(key, message), first)
        pipe.task.add_done_callback(lambda _: self._pipes.pop(key, None))
        return near

    async def take(self, key: str, message: bytes) -> None:
        """Take a message from the other end; one to a pipe that there is no more closes it there too."""
        if key in self._pipes:
            self._pipes[key].take(message)
        elif message[:1] == _DATA:
            await self._publish(key, _message(_CLOSE, 0))

    def close(self, start: str = "") -> None:
        """Break the pipes whose key begins like this."""
        for key, pipe in list(self._pipes.items()):
            if key.startswith(start):
                pipe.task.cancel()


class _Pipe:
    """One end of a pipe, until either end closes; ``task`` is its work."""

    def __init__(self, end: socket.socket, send: Send, first: bytes) -> None:
        self._send = send
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self._sent = self._taken = 0
        self._ack = asyncio.Event()
        self.task = asyncio.create_task(self._run(end, first))

    def take(self, message: bytes) -> None:
        if message[:1] == _ACK:
            self._taken = max(self._taken, _number(message))
            self._ack.set()
        elif self._arrived.qsize() > _WINDOW:  # the other end does not wait for this one
            self.task.cancel()
        else:
            self._arrived.put_nowait(message)

    async def _run(self, end: socket.socket, first: bytes) -> None:
        reader, writer = await asyncio.open_connection(sock=end, limit=_CHUNK_BYTES)
        tasks = [asyncio.create_task(self._read_all(reader, first)), asyncio.create_task(self._write_all(writer))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()
            with contextlib.suppress(Exception):  # there may be no connection to NATS
                await self._send(_message(_CLOSE, self._sent + 1))

    async def _read_all(self, reader: asyncio.StreamReader, first: bytes) -> None:
        """Send what the socket has to say."""
        if first:
            await self._send(_message(first, 0))
        while data := await reader.read(_CHUNK_BYTES):
            self._sent += 1
            await self._send(_message(_DATA, self._sent, data))
            while self._sent - self._taken >= _WINDOW:
                self._ack.clear()
                await asyncio.wait_for(self._ack.wait(), _ACK_S)

    async def _write_all(self, writer: asyncio.StreamWriter) -> None:
        """Write what arrives."""
        expected = 0
        while True:
            message, expected = await self._arrived.get(), expected + 1
            if message[:1] != _DATA or _number(message) != expected:
                return
            writer.write(message[9:])
            await writer.drain()
            await self._send(_message(_ACK, expected))


def _message(letter: bytes, number: int, data: bytes = b"") -> bytes:
    return letter + number.to_bytes(8, "big") + data


def _number(message: bytes) -> int:
    return int.from_bytes(message[1:9], "big")
