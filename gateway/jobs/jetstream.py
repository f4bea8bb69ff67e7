"""A stream of NATS JetStream as a table of records: reads, atomic batches with compare-and-set, and its set-up."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import itertools
import json
import logging
import math
import random
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..settings import NatsAccess
from .nats_connection import NatsConnection
from .store import StoreError, StoreFileError, StoreFullError, left, remedy, within

SCHEMA_VERSION = 1
_OLDEST_SERVER = (2, 12)  # the first with atomic batches (ADR-50)
_CONNECT_S = 5.0
_REPLY_S = 1.5  # for one reply of the server
_SHORTEST_REPLY_S = 0.25  # for one at the end of a call's time
_LARGE_REPLY_S = 10.0  # for one to a message, or with one, of half a MiB
_CALL_S = (
    12.0  # for one request to the server, with all repetitions; longer than elections of a leader (8.9 s were seen)
)
_PUT_S = 9.0  # for one message that is no record: a client that brings an image waits for it
_AT_ONCE = 8  # transactions of one process
_LOCK_S = 30.0  # how long a call waits for those before it
_PAUSE_S = (0.01, 0.3)  # the first and the longest mean pause before a repetition
_TOMBSTONE_S = 120  # how long a removed record is seen as removed
_FRESH_S = _TOMBSTONE_S / 4  # a view that was not brought up to date for so long begins from scratch
_SAME_S = 1.0  # how long the stream counts as the same one without a look
_HEARTBEAT_S = 1.0  # how often a consumer that has nothing to send says that it is there
_SILENT_S = 3.0  # after so long without a word it counts as gone
_STEPS = 64  # how many messages a view reads one by one before it reads the others at once
_OPERATIONS = 8  # how many of its last operations a record knows
_REPLICAS = 3  # in a cluster
_HEADERS = 200  # bytes of a record that are not in its subject and payload, about
_COPY_S = 60.0  # for each part of a copy of the stream
_COPY_BYTES = 128 << 10  # of such a part

# The server's error codes: https://github.com/nats-io/nats-server/blob/main/server/errors.json
_AGAIN = (10071, 10164, 10210)  # wrong last sequence (two codes); too many batches under way
_NO_MESSAGE = 10037
_STREAM_NOT_FOUND = 10059
_NO_JETSTREAM = (10039, 10076)  # not for this account; not on this server
_INCOMPLETE, _ACCOUNT_FULL = 10176, 10002
_NO_ROOM = "Raise max_file_store in nats-server's configuration, or make room on its disk."
_FULL = {  # what is full, and what to do
    _ACCOUNT_FULL: "The account's room is used up: raise its max_file in nats-server's configuration.",
    10023: f"The server's room is used up. {_NO_ROOM}",
    10026: "Raise max_consumers of the account, or of the stream; a call of this store needs one for a moment.",
    10027: "Raise max_streams of the account; this store is two streams.",
    10047: f"The server's room is used up. {_NO_ROOM}",
    10077: "It is full: raise its max_bytes or max_msgs, or give the server or the account more room.",
}

_LOG = logging.getLogger("wan_flf2v.gateway")
_T = TypeVar("_T")


class Layout(NamedTuple):
    """What a stream is called, what its subjects begin with, and the options that are relied on.

    The name and the prefix of a fleet with a name end with that.
    """

    name: str
    prefix: str
    options: Mapping[str, Any]


RECORDS = Layout(
    "WF",
    "wf",
    {
        "max_msgs_per_subject": 1,
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "allow_direct": False,  # so that the leader replies to every read
        "discard": "new",
        "storage": "file",
        "retention": "limits",
        "max_age": 0,
        "max_msgs": -1,
    },
)


class Record(NamedTuple):
    """What a subject holds: ``data`` is ``None`` if it was removed; ``operations`` are the last that wrote it."""

    subject: str
    sequence: int
    data: Any
    operations: tuple[str, ...]


class Heading(NamedTuple):
    """A record without its content: when it was written (Unix seconds), and whether it goes by itself."""

    subject: str
    sequence: int
    at: float
    goes: bool


class _RefusedError(Exception):
    """A batch was not taken: another writer was faster, or the server is busy. It may be taken when done again."""


class _NoReplyError(Exception):
    """The server did not reply: whether it took what was sent is not known."""


class _AppliedError(Exception):
    """A batch whose reply was lost was taken after all, later than the records were looked at."""


class Stream:
    """A stream on NATS.

    It has a thread with an event loop: ``run`` may be called from any other loop. The constructor blocks; it makes the
    stream if there is none, and raises ``StoreFileError`` if that cannot be used.
    """

    def __init__(self, access: NatsAccess, layout: Layout = RECORDS) -> None:
        self._connection = NatsConnection(access)
        self._where, fleet = self._connection.where, self._connection.fleet
        self.name, self.prefix, self._options = layout
        if fleet:
            self.name, self.prefix = f"{self.name}_{fleet}", f"{self.prefix}_{fleet}"
        self._closed = False
        self._slots, self._retrying = asyncio.Semaphore(_AT_ONCE), asyncio.Lock()
        self._calls: set[asyncio.Future[Any]] = set()
        self._endless: list[asyncio.Future[None]] = []
        self._made, self._made_known_at = "", -math.inf
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wan-flf2v-jetstream", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        except BaseException:
            self.close()
            raise

    async def run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do the work on the stream's loop and return its result. A cancelled call waits until the work is done."""
        if self._closed:
            raise StoreError("The store is closed.")
        call = asyncio.run_coroutine_threadsafe(self._track(work), self._loop)
        future = asyncio.wrap_future(call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin work on the stream's loop that goes on until the stream is closed."""
        self._loop.call_soon_threadsafe(lambda: self._endless.append(asyncio.ensure_future(work())))

    def wait(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do the work on the stream's loop; blocks."""
        return asyncio.run_coroutine_threadsafe(self._track(work), self._loop).result()

    async def _track(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        task = asyncio.ensure_future(work())
        self._calls.add(task)
        try:
            return await task
        finally:
            self._calls.discard(task)

    def close(self) -> None:
        """Finish the work that was given, take no more, and disconnect; blocks."""
        if self._loop.is_closed():
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        if self._calls:
            await asyncio.wait(list(self._calls))
        for work in self._endless:  # before the connection is closed: it would begin another one
            work.cancel()
        await asyncio.gather(*self._endless, return_exceptions=True)
        await self._connection.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # Set-up

    async def _open(self) -> None:
        try:
            await asyncio.wait_for(self._connection.begin(), _CONNECT_S)
        except (asyncio.TimeoutError, nats.errors.Error, OSError) as error:
            why = "; ".join(self._connection.errors) or str(error) or "no reply"
            raise StoreFileError(
                f"NATS at {self._where} cannot be used: {why}. Is a nats-server running there, and may "
                "this user connect to it?"
            ) from error
        client = self._connection.client()
        version = client.connected_server_version
        if (version.major, version.minor) < _OLDEST_SERVER:
            raise StoreFileError(
                f"The nats-server at {self._where} has version {version.major}.{version.minor}.{version.patch}; the "
                "store needs 2.12 or newer, which has atomic batches. Update it."
            )
        try:
            await self._prepare()
        except StoreError as error:
            raise StoreFileError(str(error)) from error

    async def _prepare(self) -> None:
        """Make the stream, or check the one that is there."""
        clustered = "cluster" in self._connection.client()._server_info  # the client has no other way to tell
        replicas = _REPLICAS if clustered else 1
        reply = await self._ask(f"STREAM.INFO.{self.name}", may_fail=(_STREAM_NOT_FOUND,))
        if "error" in reply:
            wanted = {
                **self._options,
                "name": self.name,
                "subjects": [f"{self.prefix}.>"],
                "num_replicas": replicas,
                "metadata": {"wan_flf2v_schema": str(SCHEMA_VERSION)},
            }
            reply = await self._ask(f"STREAM.CREATE.{self.name}", wanted)
            _LOG.info("stream made name=%s replicas=%d servers=%s", self.name, replicas, self._where)
        config = reply["config"]
        schema = config.get("metadata", {}).get("wan_flf2v_schema")
        if schema != str(SCHEMA_VERSION):
            raise StoreFileError(
                f"The stream {self.name} at {self._where} has schema {schema or 'of another program'}; this version of "
                f"wan-flf2v knows schema {SCHEMA_VERSION} only. {remedy(schema, SCHEMA_VERSION)}, or use another "
                "fleet's name: nats://HOST/NAME."
            )
        wrong = [
            f"{key} is {config.get(key)!r} and must be {value!r}"
            for key, value in self._options.items()
            if config.get(key) != value
        ]
        if clustered and config["num_replicas"] < _REPLICAS:
            wrong.append(f"num_replicas is {config['num_replicas']} and must be {_REPLICAS} in a cluster")
        if wrong:
            raise StoreFileError(
                f"The stream {self.name} at {self._where} is not as the store needs it: {'; '.join(wrong)}. Change it "
                f"with `nats stream edit {self.name}`."
            )

    # Reading

    async def made(self) -> str:
        """Return when this stream was made: one that was deleted and made again is another one."""
        if time.monotonic() - self._made_known_at >= _SAME_S:
            known_at = time.monotonic()
            self._made = (await self._ask(f"STREAM.INFO.{self.name}"))["created"]
            self._made_known_at = known_at
        return self._made

    async def last(self, subject: str) -> Record | None:
        """Return the newest record of a subject, or of all that a subject with wildcards matches."""
        return await self._message({"last_by_subj": subject})

    async def after(self, sequence: int, subject: str) -> Record | None:
        """Return the first record behind a sequence number, of the subjects that ``subject`` matches."""
        return await self._message({"seq": sequence + 1, "next_by_subj": subject})

    async def end(self) -> int:
        """Return the sequence number of the newest record of all."""
        return int((await self._ask(f"STREAM.INFO.{self.name}"))["state"]["last_seq"])

    async def all(self, subject: str, sequence: int) -> AsyncIterator[Record]:
        """Yield the records behind a sequence number. A replica may send them that lacks the newest ones."""
        async for message, number, _ in self._all(subject, sequence):
            yield self._decode(message.subject, number, message.data)

    async def headings(self, subject: str, sequence: int) -> AsyncIterator[Heading]:
        """Yield what ``all`` does without the contents, which are not sent."""
        async for message, number, at in self._all(subject, sequence, headers_only=True):
            yield Heading(message.subject, number, at, "Nats-TTL" in (message.headers or {}))

    async def _all(self, subject: str, sequence: int, **options: Any) -> AsyncIterator[tuple[Msg, int, float]]:
        options |= {"deliver_policy": "by_start_sequence", "opt_start_seq": sequence + 1}
        async with self._pushed(subject, **options) as (pending, arrived):
            for _ in range(pending):
                try:
                    message = await asyncio.wait_for(arrived.get(), _REPLY_S)
                except asyncio.TimeoutError:
                    return  # a tombstone that expired meanwhile does not come; who needs all reads on from the last
                # $JS.ACK.stream.consumer.delivered.SEQUENCE.….NANOSECONDS.pending
                *_, number, _, nanoseconds, _ = message.reply.split(".")
                yield message, int(number), int(nanoseconds) / 1e9

    async def hear(self, subject: str, heard: Callable[[], None]) -> None:
        """Call ``heard`` when a record was written whose subject ``subject`` matches; never returns.

        What is written while there is no connection may not be heard; ``heard`` is called once there is one again.
        """
        while True:
            with contextlib.suppress(StoreError, asyncio.TimeoutError):
                options = {"headers_only": True, "idle_heartbeat": int(_HEARTBEAT_S * 1e9)}
                async with self._pushed(subject, deliver_policy="new", **options) as (_, arrived):
                    heard()
                    while True:
                        message = await asyncio.wait_for(arrived.get(), _SILENT_S)
                        if message.subject.startswith(f"{self.prefix}."):  # else it is a heartbeat
                            heard()
            await asyncio.sleep(_REPLY_S)

    @contextlib.asynccontextmanager
    async def _pushed(self, subject: str, **options: Any) -> AsyncIterator[tuple[int, asyncio.Queue[Msg]]]:
        """Let the server send records that ``subject`` matches; yield how many there are, and where they arrive."""
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        consumer: dict[str, Any] | None = None
        try:
            client = self._connection.client()
            inbox = client.new_inbox()
            subscription = await client.subscribe(inbox, cb=arrived.put, pending_msgs_limit=0, pending_bytes_limit=0)
        except (nats.errors.Error, OSError):
            raise self._silent() from None
        try:
            consumer = await self._consumer(subject, deliver_subject=inbox, **options)
            yield consumer["num_pending"], arrived
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()
            if consumer is not None:
                await self._remove_consumer(consumer)

    async def count(self, subject: str) -> int:
        """Return how many records there are of the subjects that ``subject`` matches."""
        consumer = await self._consumer(subject)
        await self._remove_consumer(consumer)
        return int(consumer["num_pending"])

    async def _consumer(self, subject: str, **options: Any) -> dict[str, Any]:
        config = {
            "deliver_policy": "all",
            "ack_policy": "none",
            "filter_subject": subject,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 10 * 10**9,
            **options,
        }
        return await self._ask(f"CONSUMER.CREATE.{self.name}", {"stream_name": self.name, "config": config})

    async def _remove_consumer(self, consumer: Mapping[str, Any]) -> None:
        with contextlib.suppress(nats.errors.Error, OSError):  # it also goes by itself
            await self._connection.client().publish(f"$JS.API.CONSUMER.DELETE.{self.name}.{consumer['name']}")

    async def _message(self, query: Mapping[str, Any]) -> Record | None:
        reply = await self._ask(f"STREAM.MSG.GET.{self.name}", query, may_fail=(_NO_MESSAGE,))
        if "error" in reply:
            return None
        message = reply["message"]
        return self._decode(message["subject"], message["seq"], base64.b64decode(message.get("data", "")))

    def _decode(self, subject: str, sequence: int, data: bytes) -> Record:
        try:
            content = json.loads(data)
            version = content["v"]
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"The stream {self.name} has a record of another program: {subject}.") from None
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"The stream {self.name} has a record of schema {version} ({subject}); this version of wan-flf2v knows "
                f"schema {SCHEMA_VERSION} only. {remedy(version, SCHEMA_VERSION)}."
            )
        return Record(subject, sequence, content["data"], tuple(content["ops"]))

    async def _ask(
        self, call: str, query: Mapping[str, Any] | None = None, *, may_fail: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        """Ask JetStream's API; raises what ``_repeat`` raises."""
        payload = json.dumps(query).encode() if query is not None else b""
        return await self._repeat(lambda: self._request(f"$JS.API.{call}", payload), may_fail=may_fail)

    async def _repeat(
        self, request: Callable[[], Awaitable[dict[str, Any]]], *, may_fail: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        """Make a request, again while nothing replies; ``StoreError`` unless the server does what was asked."""
        for pause in _pauses():
            await asyncio.sleep(pause)
            try:
                reply = await request()
            except _NoReplyError:
                continue
            if "error" in reply and reply["error"].get("err_code") not in may_fail:
                if _passes(reply["error"]):
                    continue
                raise self._refused(reply["error"])
            return reply
        raise self._silent()

    async def _request(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None, *, reply_s: float | None = None
    ) -> dict[str, Any]:
        reply = await self._exchange(subject, payload, headers, reply_s or _REPLY_S)
        result: dict[str, Any] = json.loads(reply.data)
        return result

    async def _exchange(self, subject: str, payload: bytes, headers: dict[str, str] | None, reply_s: float) -> Msg:
        try:
            reply_s = max(left(reply_s), _SHORTEST_REPLY_S)
            return await self._connection.client().request(subject, payload, reply_s, headers=headers)
        except nats.errors.MaxPayloadError as error:
            raise self._too_large() from error
        except (nats.errors.Error, asyncio.TimeoutError, OSError) as error:
            raise _NoReplyError from error

    def _too_large(self) -> StoreError:
        return StoreError(f"nats-server at {self._where} takes no record as large as this one: raise its max_payload.")

    def _silent(self) -> StoreError:
        return StoreError(
            f"JetStream at {self._where} does not reply for the stream {self.name}: there is no connection, too few "
            "of its servers are up, or the stream was deleted."
        )

    def _refused(self, error: Mapping[str, Any]) -> StoreError:
        code, text = error.get("err_code"), error.get("description")
        kind = StoreFullError if code in _FULL else StoreError
        if code == _STREAM_NOT_FOUND:
            why = "It was deleted, or this is another account. Restart the gateway to make a new, empty one."
        elif code in _NO_JETSTREAM:
            why = "JetStream is off there, or not allowed to this account."
        elif code in _FULL:
            why = _FULL[code]
        else:
            why = "The log of nats-server may say more."
        return kind(f"JetStream at {self._where} refused a call for the stream {self.name}: {text}. {why}")

    # Messages that are no records: each is written once, and never changed

    async def put(self, subject: str, content: bytes, *, ttl_s: int) -> None:
        """Write a message; it goes by itself after ``ttl_s``."""
        headers = {"Nats-TTL": f"{ttl_s}s"}
        with within(_PUT_S):
            await self._repeat(lambda: self._request(subject, content, headers, reply_s=_LARGE_REPLY_S))

    async def content(self, subject: str) -> bytes | None:
        """Return the content of a message, ``None`` if there is none. The stream must have ``allow_direct``."""
        for pause in _pauses():
            await asyncio.sleep(pause)
            with contextlib.suppress(_NoReplyError):
                found = await self._exchange(f"$JS.API.DIRECT.GET.{self.name}.{subject}", b"", None, _LARGE_REPLY_S)
                if "Status" not in (found.headers or {}):
                    return found.data
                break
        # Any replica replied, and it may lack the newest ones; the leader has all.
        reply = await self._ask(f"STREAM.MSG.GET.{self.name}", {"last_by_subj": subject}, may_fail=(_NO_MESSAGE,))
        return None if "error" in reply else base64.b64decode(reply["message"].get("data", ""))

    async def subjects(self, subject: str) -> int:
        """Return how many subjects with a message ``subject`` matches; at most 100,000."""
        reply = await self._ask(f"STREAM.INFO.{self.name}", {"subjects_filter": subject})
        return len(reply["state"].get("subjects") or ())

    async def clear(self, subject: str) -> None:
        """Remove the messages of the subjects that ``subject`` matches."""
        await self._ask(f"STREAM.PURGE.{self.name}", {"filter": subject})

    def client(self) -> Client:
        """Return a client for messages that no stream keeps; ``nats.errors.Error`` while there is no connection."""
        return self._connection.client()

    # Copies of the whole stream, as the server makes them

    async def back_up(self, copy: Path) -> None:
        """Write a copy into a new file: a line of JSON that says what stream it is, then what the server sends."""
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        try:
            client = self._connection.client()
            subscription = await client.subscribe(inbox := client.new_inbox(), cb=arrived.put)
            query = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": _COPY_BYTES}
            about = await self._ask(f"STREAM.SNAPSHOT.{self.name}", query)
            with copy.open("xb") as file:
                file.write(json.dumps({name: about[name] for name in ("config", "state")}).encode() + b"\n")
                while (part := await asyncio.wait_for(arrived.get(), _COPY_S)).data:
                    file.write(part.data)
                    if part.reply:
                        await part.respond(b"")  # the server waits for it
            if part.headers:
                raise StoreError(f"nats-server broke off the copy of {self.name}: {part.headers}")
            await subscription.unsubscribe()
        except (nats.errors.Error, asyncio.TimeoutError):
            raise self._silent() from None

    async def restore(self, copy: Path) -> None:
        """Put a copy in the place of this stream, which is deleted; ``StoreFileError`` if it is one of another."""
        with copy.open("rb") as file:
            about = json.loads(file.readline())
            config = about["config"]
            if config["name"] != self.name:
                raise StoreFileError(
                    f"The backup is one of the stream {config['name']}, but this one is {self.name}: the fleet's name, "
                    "in nats://HOST/NAME, must be the same."
                )
            now = await self._ask(f"STREAM.INFO.{self.name}")
            config["num_replicas"] = now["config"]["num_replicas"]
            await self._ask(f"STREAM.DELETE.{self.name}")
            reply = await self._ask(f"STREAM.RESTORE.{self.name}", about)
            parts = iter(functools.partial(file.read, _COPY_BYTES), b"")
            for part in itertools.chain(parts, (b"",)):
                try:
                    taken = await self._connection.client().request(reply["deliver_subject"], part, _COPY_S)
                except (nats.errors.Error, asyncio.TimeoutError, OSError):
                    raise self._silent() from None
                if taken.data.startswith(b"-ERR"):
                    raise StoreError(f"nats-server does not take the copy of {self.name}: {taken.data.decode()}")
        if "error" in (made := json.loads(taken.data)):
            raise self._refused(made["error"])

    # Writing

    async def transact(self, work: Callable[[Transaction], Awaitable[_T]], *, waits: bool = True) -> _T:
        """Do ``work``, which reads and writes records, and commit what it wrote as one atomic batch.

        The batch is refused if a record that is written was changed since it was read. Then the work is done again from
        its beginning, until it is taken. One call at a time does so, since many at once would only refuse each other;
        new calls wait for it. With ``waits=False`` it waits for no others.
        """
        operation, unseen = uuid.uuid4().hex, list[_T]()
        if waits and not self._retrying.locked():
            async with self.holding(self._slots):
                with contextlib.suppress(_RefusedError):
                    return await self._attempt(work, operation, unseen)
        async with self.holding(self._retrying) if waits else contextlib.nullcontext():
            for pause in _pauses():
                await asyncio.sleep(pause)
                with contextlib.suppress(_RefusedError):
                    return await self._attempt(work, operation, unseen)
            raise self._busy()

    @contextlib.asynccontextmanager
    async def holding(self, lock: asyncio.Lock | asyncio.Semaphore) -> AsyncIterator[None]:
        """Hold a lock; ``StoreError`` if the calls that came before take too long."""
        try:
            await asyncio.wait_for(lock.acquire(), left(_LOCK_S))
        except asyncio.TimeoutError:
            raise self._busy() from None
        try:
            yield
        finally:
            lock.release()

    async def _attempt(self, work: Callable[[Transaction], Awaitable[_T]], operation: str, unseen: list[_T]) -> _T:
        """Do the work once. After a reply that was lost, the records tell whether the batch was taken.

        ``unseen`` has what the work returned in attempts whose batch was not seen: one may be taken later.
        """
        transaction = Transaction(self, operation)
        try:
            result = await work(transaction)
        except _AppliedError:
            return unseen[-1]
        batch = transaction.batch()
        if batch:
            try:
                await self._commit(batch)
            except (_RefusedError, _NoReplyError) as error:
                if not await self._taken(batch, operation):
                    if isinstance(error, _NoReplyError):
                        unseen.append(result)
                    raise _RefusedError from None
        return result

    def _busy(self) -> StoreError:
        return StoreError(
            f"Too many others write the same records of the stream {self.name}, it has no leader, or there is no room: "
            "its account's is used up, or a disk of nats-server is full. The log of nats-server says more."
        )

    async def _taken(self, batch: list[_Write], operation: str) -> bool:
        for write in batch:
            record = await self.last(write.subject)
            if record is not None and operation in record.operations:
                return True
        return False

    async def _commit(self, batch: list[_Write]) -> None:
        batch_id = uuid.uuid4().hex
        for number, write in enumerate(batch, 1):
            headers = {
                "Nats-Batch-Id": batch_id,
                "Nats-Batch-Sequence": str(number),
                "Nats-Expected-Last-Subject-Sequence": str(write.expected),
            }
            if write.ttl_s is not None:
                headers["Nats-TTL"] = f"{write.ttl_s}s"
            if number < len(batch):
                try:
                    await self._connection.client().publish(write.subject, write.payload, headers=headers)
                except nats.errors.MaxPayloadError as error:
                    raise self._too_large() from error
                except (nats.errors.Error, OSError) as error:
                    raise _NoReplyError from error
                continue
            reply = await self._request(write.subject, write.payload, headers | {"Nats-Batch-Commit": "1"})
        refusal = reply.get("error")
        if refusal is None:
            return
        if refusal.get("err_code") == _INCOMPLETE:
            # Its leader died meanwhile, or there was no room for another part of it, which nobody says.
            await self._check_room(sum(len(write.subject) + len(write.payload) + _HEADERS for write in batch))
            raise _RefusedError
        if refusal.get("err_code") in _AGAIN or _passes(refusal):
            raise _RefusedError
        raise self._refused(refusal)

    async def _check_room(self, size: int) -> None:
        """Raise ``StoreFullError`` if the account has no room for so many bytes; the text has the figures."""
        account = await self._ask("INFO")
        if "tiers" in account:  # then it has no limits as a whole
            return
        replicas = (await self._ask(f"STREAM.INFO.{self.name}"))["config"]["num_replicas"]
        room, used = account["limits"]["max_storage"], account["storage"]
        if 0 <= room < used + replicas * size:
            figures = f"resource limits exceeded for account, {used} of {room} bytes are used"
            raise self._refused({"err_code": _ACCOUNT_FULL, "description": figures})


class _Write(NamedTuple):
    subject: str
    expected: int
    payload: bytes
    ttl_s: int | None


class Transaction:
    """Reads of records, and writes that are committed together."""

    def __init__(self, stream: Stream, operation: str) -> None:
        self._stream = stream
        self._operation = operation
        self._read: dict[str, Record] = {}
        self._writes: dict[str, tuple[Any, int | None]] = {}

    async def find(self, subject: str) -> Record | None:
        """Read the newest record that a subject with wildcards matches; ``None`` if there is none, or it is removed."""
        record = await self._stream.last(subject)
        if record is None:
            return None
        if self._operation in record.operations:
            raise _AppliedError
        self._read[record.subject] = record
        return record if record.data is not None else None

    async def read(self, subject: str) -> Any:
        """Return the data of a record; ``None`` if there is none."""
        record = await self.find(subject)
        return record.data if record is not None else None

    def write(self, subject: str, data: Any, *, ttl_s: int | None = None) -> None:
        """Put data in a record's place. One that was not read must not exist. With ``ttl_s`` it goes by itself."""
        self._writes[subject] = data, ttl_s

    def remove(self, subject: str) -> None:
        """Remove a record."""
        self.write(subject, None, ttl_s=_TOMBSTONE_S)

    def batch(self) -> list[_Write]:
        """Return what was written, removals first: so the last record of a thing that was moved is its new place."""
        writes = []
        for subject, (data, ttl_s) in sorted(self._writes.items(), key=lambda item: item[1][0] is not None):
            before = self._read.get(subject)
            earlier = before.operations[1 - _OPERATIONS :] if before is not None else ()
            content = {"v": SCHEMA_VERSION, "ops": [*earlier, self._operation], "data": data}
            payload = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
            writes.append(_Write(subject, before.sequence if before is not None else 0, payload, ttl_s))
        return writes


class View:
    """The records whose subjects match a filter, kept in memory; each look begins with what is new.

    What ``decode`` makes of a record is kept; ``None``: nothing of it. With ``removals=False`` no such record is ever
    removed before ``decode`` makes ``None`` of it: then a look after a long time need not begin from scratch.
    """

    def __init__(self, stream: Stream, subject: str, decode: Callable[[Record], Any], *, removals: bool = True) -> None:
        self._stream = stream
        self._subject = subject
        self._decode = decode
        self._removals = removals
        self._records: dict[str, Any] = {}
        self._at: float | None = None
        self._made = ""
        self._lock = asyncio.Lock()
        self.sequence = 0

    async def look(self) -> Mapping[str, Any]:
        """Return subject -> decoded record of all that had been written when this was called."""
        await self.refresh()
        return dict(self._records)

    async def refresh(self) -> None:
        """Bring the view up to date with all that had been written when this was called."""
        async with self._stream.holding(self._lock):
            try:
                await self._refresh()
            except BaseException:
                self._at = None  # the stream may be another one next time
                raise

    async def _refresh(self) -> None:
        now, made = time.monotonic(), await self._stream.made()
        # What was removed meanwhile may leave no trace.
        if self._at is None or made != self._made or (self._removals and now - self._at > _FRESH_S):
            self._forget()
            self.sequence, self._made = 0, made
            await self._read_many()
        self._at = now
        steps, end = 0, math.inf
        while self.sequence < end:
            record = await self._stream.after(self.sequence, self._subject)
            if record is None:
                return
            if steps == 0:
                end = await self._stream.end()  # what is written from now on is for the next look
            self._apply(record)
            steps += 1
            if steps % _STEPS == 0:
                await self._read_many()

    def _forget(self) -> None:
        self._records = {}

    async def _read_many(self) -> None:
        async for record in self._stream.all(self._subject, self.sequence):
            self._apply(record)

    def _apply(self, record: Record) -> None:
        self.sequence = record.sequence
        kept = self._decode(record) if record.data is not None else None
        if kept is None:
            self._records.pop(record.subject, None)
        else:
            self._records[record.subject] = kept


def _passes(error: Mapping[str, Any]) -> bool:
    """Return whether an error of the server is one that soon passes, such as an election."""
    return error.get("code") in (429, 503) and error.get("err_code") not in (*_NO_JETSTREAM, *_FULL)


def _pauses() -> Iterator[float]:
    """Yield how long to wait before each attempt of a call: not at all, then longer, until it has taken too long."""
    end, (mean, longest) = time.monotonic() + left(_CALL_S), _PAUSE_S
    yield 0.0
    while time.monotonic() < end:
        yield random.uniform(0, 2 * mean)  # noqa: S311 -- so that two writers do not meet again
        mean = min(2 * mean, longest)
