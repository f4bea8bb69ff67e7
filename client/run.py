"""Runs one workflow on a ComfyUI server: checks it, queues it and waits for its files.

The websocket tells about progress, and when to look whether the run has ended; whether and how is read from
``/history``. A websocket that hangs delays the progress, and the end by ten seconds at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..contract.workflow import Graph
from .comfy import ComfyClient, Event, OutputFile
from .errors import (
    ComfyError,
    NoOutputError,
    PreflightError,
    ServerLostError,
    ServerResponseError,
    ServerUnreachableError,
    explain_failure,
    explain_rejection,
    named_node,
)
from .progress import Progress, ProgressTracker

_LOG = logging.getLogger("wan_flf2v.client")

_POLL_S = 2.0  # how often /history and /queue are read while the websocket is silent
_SELDOM_POLL_S = 10.0  # the same after it told something since the last time: it would tell of the end too
_ENDED_POLL_S = 0.1  # ComfyUI announces the end a moment before its history has it
_SOCKET_WAIT_S = 5.0
_RECONNECT_S = 1.0
_LOST_AFTER_S = 8.0  # long enough for a proxy's hiccup, short enough to tell a person
# Where nodes report files: core uses images (videos too, marked "animated"), VideoHelperSuite gifs, some packs videos.
_FILE_KEYS = ("images", "gifs", "videos")
_END_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True)
class RunResult:
    """A finished run: its files, and the server's own time for it."""

    prompt_id: str
    files: tuple[OutputFile, ...]
    seconds: float


async def check_graph(client: ComfyClient, graph: Graph) -> list[str]:
    """Return the warnings, none if the server's pack is older than this check.

    Raises ``PreflightError``, a line per problem, if the graph cannot give the video, and ``ServerUnreachableError``.
    A check that itself fails on the server stops nobody.
    """
    try:
        findings = await client.preflight(graph)
    except ServerResponseError as error:
        _LOG.warning("preflight on ComfyUI failed: %s", error)
        return []
    if findings is None:
        return []
    if findings.errors:
        raise PreflightError("\n".join(findings.errors))
    return list(findings.warnings)


async def run_graph(
    client: ComfyClient,
    graph: Graph,
    *,
    prompt_id: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    workflow: dict[str, Any] | None = None,
) -> RunResult:
    """Queue ``graph`` and wait for its files.

    ``prompt_id`` is a canonical lowercase UUID (a new one by default), ``workflow`` the UI form that the result should
    carry. Cancelling the task, or an error in ``on_progress``, cancels this prompt on the server, and no other.
    Raises a ``ComfyError``: the workflow was refused, a node failed, the run was stopped, the server died, or it
    reported no file.
    """
    run = _Run(client, graph, prompt_id or str(uuid.uuid4()), on_progress)
    try:
        async with run.listening():
            await run.wait_for_socket()
            await run.submit(workflow)
            record = await run.wait_record(_LOST_AFTER_S)
    except ComfyError:
        raise
    except BaseException:  # cancelled, or the caller's on_progress failed
        with contextlib.suppress(ComfyError):  # nothing is left to cancel if the server is gone
            await client.cancel(run.prompt_id)
        raise
    return run.result(record)


async def follow_graph(
    client: ComfyClient,
    graph: Graph,
    prompt_id: str,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_preview: Callable[[bytes], None] | None = None,
) -> RunResult:
    """Wait for the files of a prompt that ``queue_prompt`` queued with its own id as ``client_id``.

    ``on_preview`` gets pictures of what is being made, JPEG or PNG files, where ComfyUI's previews are on. A caller
    that stops waiting leaves the prompt to the server and may come back. Raises what ``run_graph`` raises, but
    ``ServerLostError`` at the first request without a response: the caller knows how to go on.
    """
    run = _Run(client, graph, prompt_id, on_progress, on_preview)
    async with run.listening():
        record = await run.wait_record(0.0)
    return run.result(record)


class _Run:
    """The state of one run."""

    def __init__(
        self,
        client: ComfyClient,
        graph: Graph,
        prompt_id: str,
        on_progress: Callable[[Progress], None] | None,
        on_preview: Callable[[bytes], None] | None = None,
    ) -> None:
        self.prompt_id = prompt_id
        self._client = client
        self._graph = graph
        self._on_progress = on_progress
        self._on_preview = on_preview
        self._tracker = ProgressTracker(graph)
        self._shown: Progress | None = None
        self._socket_tried = asyncio.Event()
        self._news = asyncio.Event()
        self._told = False  # whether the websocket told something since the last look
        self._look_at = -math.inf  # when to look next
        self._ended = False

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Read the websocket meanwhile."""
        listener = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    async def _listen(self) -> None:
        """Read the websocket for ever; connect again, as the same client, when it breaks."""
        while True:
            stood = False
            with contextlib.suppress(ServerUnreachableError):
                async for event in self._client.events(self.prompt_id):
                    stood = True
                    self._socket_tried.set()
                    self._take(event)
            self._socket_tried.set()
            await asyncio.sleep(_RECONNECT_S)
            if stood:
                self._look_soon()

    async def wait_for_socket(self) -> None:
        """Give the websocket a moment, so that no event is missed; the run does not need it."""
        await wait_for(self._socket_tried, _SOCKET_WAIT_S)

    async def submit(self, workflow: dict[str, Any] | None) -> None:
        """Queue the graph. A request that is under way is finished even if the task is cancelled meanwhile."""
        extra_data = {"extra_pnginfo": {"workflow": workflow}} if workflow is not None else {}
        request = asyncio.create_task(
            self._client.queue_prompt(
                self._graph, prompt_id=self.prompt_id, client_id=self.prompt_id, extra_data=extra_data
            )
        )
        try:
            node_errors = await asyncio.shield(request)
        except asyncio.CancelledError:
            await asyncio.wait([request], timeout=_SOCKET_WAIT_S)
            raise
        if node_errors:  # queued all the same, without the nodes at fault
            await self._client.cancel(self.prompt_id)
            raise explain_rejection(self._graph, None, node_errors)

    async def wait_record(self, lost_after_s: float) -> dict[str, Any]:
        """Wait for the prompt's history record; the server may be unreachable for ``lost_after_s``."""
        clock, failing_since = asyncio.get_running_loop().time, None
        while True:
            self._report()
            if self._ended or clock() >= self._look_at:
                poll_s, self._told = _SELDOM_POLL_S if self._told else _POLL_S, False
                self._look_at = clock() + poll_s
                try:
                    record = await self._look()
                    failing_since = None
                except ServerUnreachableError as error:
                    failing_since = failing_since or clock()
                    if clock() - failing_since >= lost_after_s:
                        raise ServerLostError(self._lost(str(error))) from error
                    record = None
                if record is not None:
                    return record
            await self._wait_for_news(_ENDED_POLL_S if self._ended else self._look_at - clock())

    def result(self, record: dict[str, Any]) -> RunResult:
        """Turn a history record into the result, or into the error it tells of."""
        messages: dict[str, Any] = dict((record.get("status") or {}).get("messages", []))
        for kind in ("execution_error", "execution_interrupted"):
            if kind in messages:
                raise explain_failure(self._graph, messages[kind])
        files = tuple(_files(record.get("outputs", {})))
        if not files:
            cached_nodes = {str(node_id) for node_id in messages.get("execution_cached", {}).get("nodes", [])}
            raise NoOutputError(self._no_output(cached_nodes))
        self._tracker.finish()
        self._report()
        times = [data["timestamp"] for data in messages.values() if "timestamp" in data]
        seconds = (max(times) - min(times)) / 1000 if times else 0.0
        return RunResult(self.prompt_id, files, seconds)

    def _look_soon(self) -> None:
        """Look now: the websocket broke a moment ago, and may have told what is lost."""
        self._told, self._look_at = False, -math.inf
        self._news.set()

    def _take(self, event: Event) -> None:
        if event.data.get("prompt_id") != self.prompt_id or event.type == "progress":  # progress_state says the same
            return
        if event.type == "preview":
            if self._on_preview is not None:
                self._on_preview(event.data["image"])
            return
        self._told = True
        self._tracker.apply(event)
        if event.type in _END_EVENTS or (event.type == "executing" and event.data.get("node") is None):
            self._ended = True
        self._news.set()

    async def _wait_for_news(self, timeout_s: float) -> None:
        if self._ended:
            await asyncio.sleep(timeout_s)
            return
        await wait_for(self._news, max(timeout_s, 0))
        self._news.clear()

    async def _look(self) -> dict[str, Any] | None:
        """Return the history record if there is one. The queue is read first: a prompt leaves it for the history."""
        position = (await self._client.queue()).position(self.prompt_id)
        if position is not None:
            self._tracker.queue_position = position
            return None
        record = await self._client.history(self.prompt_id)
        if record is None:
            raise ServerLostError(self._lost(f"ComfyUI at {self._client.url} no longer knows the prompt."))
        return record

    def _report(self) -> None:
        progress = self._tracker.snapshot()
        if self._on_progress is not None and progress != self._shown:
            self._shown = progress
            self._on_progress(progress)

    def _lost(self, reason: str) -> str:
        node_id = self._tracker.node_id
        where = f"It was at {named_node(self._graph, node_id)}." if node_id else "It had not started."
        return (
            f"Prompt {self.prompt_id} was lost. {where} {reason} ComfyUI may have crashed (its log says why; often it "
            "ran out of memory) or been restarted, or the prompt was removed from its queue. Run it again."
        )

    def _no_output(self, cached_nodes: set[str]) -> str:
        if cached_nodes >= set(self._graph):
            return (
                "ComfyUI had this exact run in its cache, ran nothing and reported no file. Change the seed, or "
                "restart ComfyUI, and run again."
            )
        return (
            "The run finished, but no node reported a file. The workflow needs a node that saves one, such as "
            "WanFLF2VVideoCombine."
        )


async def wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, but not long.

    (Until Python 3.12, ``asyncio.wait_for`` can lose a cancellation that comes with it.)
    """
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([waiting], timeout=timeout_s)
    finally:
        waiting.cancel()


def _files(outputs: dict[str, Any]) -> Iterator[OutputFile]:
    for node_id, output in outputs.items():
        for key in _FILE_KEYS:
            for item in output.get(key) or []:
                if isinstance(item, dict) and item.get("filename"):
                    yield OutputFile(
                        item["filename"], item.get("subfolder", ""), item.get("type", "output"), str(node_id)
                    )
