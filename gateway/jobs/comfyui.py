"""ComfyBackend, the client of one ComfyUI: checks, queues, follows and finds again a job's prompt there."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...client.comfy import ComfyClient, OutputFile
from ...client.errors import (
    ComfyError,
    NoOutputError,
    PromptRejectedError,
    ServerAnswerError,
    ServerLostError,
    ServerUnreachableError,
    explain_rejection,
)
from ...client.progress import Progress
from ...client.run import RunResult, check_graph, follow_graph
from ...contract.parameters import FRAME_RATE, MODELS
from ...contract.workflow import Graph, fill, graph_for, ui_form
from .records import Job

FOLDER = "wan_flf2v_api"  # below ComfyUI's input and output folders
ONCE = "wan_flf2v_once"  # in a prompt's extra data: this ComfyUI must not take a second prompt with the same id
_VIDEO_NODE = FRAME_RATE.inputs[0].node_id  # the node that writes the video
_BAD_GATEWAY = (502, 503, 504)  # a proxy in front of ComfyUI cannot reach it
# A killed gateway's last POST may still be on its way to ComfyUI, whose event loop can stall while a model loads.
_LATE_POST_S = 1.0
# The folders of an absolute path in a node's message; the file's name stays.
_FOLDERS = re.compile(r"""(?<![\w./\\])(?:[A-Za-z]:[\\/]|\\\\|/)(?:[^\s'"<>|:\\/][^'"<>|:\\/\n]*[\\/])+""")

_LOG = logging.getLogger("wan_flf2v.gateway")


Found = Literal["known", "file", "worker_ended", "removed", "never_sent"]


@dataclass(frozen=True)
class Identity:
    """The version of a ComfyUI, and a text that differs for every start of it (``None`` if it has none)."""

    version: str
    instance: str | None


def is_lost(error: ComfyError) -> bool:
    """Whether ComfyUI cannot be reached now; otherwise the error is its response."""
    if isinstance(error, ServerAnswerError):
        return error.status in _BAD_GATEWAY
    return isinstance(error, (ServerLostError, ServerUnreachableError))


def public_text(error: ComfyError) -> str:
    """Return what a client is told about the error that ended its job: no folders and addresses of the server."""
    if isinstance(error, ServerAnswerError):
        return f"ComfyUI answered this request with HTTP status {error.status}. The API's log says more."
    return _FOLDERS.sub("", str(error))


def request_graph(job: Job, images: Mapping[str, str] | None = None) -> Graph:
    """Return the bundled graph with the job's values; ``images`` maps parameters to the names of uploaded images."""
    model = MODELS[job.model_id]
    graph = fill(graph_for(model), model, {**job.values, **(images or {})})
    graph[_VIDEO_NODE]["inputs"]["filename_prefix"] = f"{FOLDER}/{job.id}"
    return graph


def result_file(job_id: str) -> OutputFile:
    """Return the file that a finished prompt has written; ComfyUI numbers the files of a prefix from 1."""
    return OutputFile(f"{job_id}_00001_.mp4", FOLDER, "output", _VIDEO_NODE)


class ComfyBackend:
    """The client of one ComfyUI. Every method raises a ``ComfyError``; ``is_lost`` tells whether to wait for it."""

    def __init__(self, client: ComfyClient, inputs: Path) -> None:
        self.client = client
        self._inputs = inputs

    async def identify(self) -> Identity:
        """Return which ComfyUI process is there."""
        stats = await self.client.system_stats()
        return Identity(str(stats["system"]["comfyui_version"]), await self.client.pack_instance())

    async def has_result(self, job_id: str) -> bool:
        """Whether the prompt's file is there. Until it is whole, an empty file holds its name."""
        return await self.client.has_file(result_file(job_id))

    async def check(self, job: Job) -> list[str]:
        """Run preflight on the job's graph; return the warnings. Raises ``PreflightError`` if it cannot run."""
        return [_FOLDERS.sub("", text) for text in await check_graph(self.client, request_graph(job))]

    async def submit(self, job: Job) -> None:
        """Upload the job's images and queue its graph."""
        if job.attempt > 1:  # a ComfyUI that ended while it decoded left an empty file under the video's name
            await self._remove_leftovers(job)
        images = {
            key: await self.client.upload_image(self._inputs / name, f"{FOLDER}/{job.id}")
            for key, name in job.inputs.items()
        }
        graph = request_graph(job, images)
        form = ui_form(MODELS[job.model_id].workflow, graph)
        extra_data = {ONCE: True, "extra_pnginfo": {"workflow": form}}
        try:
            node_errors = await self.client.queue_prompt(
                graph, prompt_id=job.id, client_id=job.id, extra_data=extra_data
            )
        except PromptRejectedError:
            if await self._knows(job.id):  # a killed gateway's prompt came first
                return
            raise
        if node_errors:  # ComfyUI queued the graph without the bad nodes; tidy() removes it
            raise explain_rejection(graph, None, node_errors)

    async def follow(self, job: Job, on_progress: Callable[[Progress], None]) -> RunResult:
        """Wait until the prompt has ended; raise the error that ended it."""
        try:
            return await follow_graph(self.client, request_graph(job), job.id, on_progress=on_progress)
        except NoOutputError:
            # A prompt that was queued twice, by a gateway that died meanwhile, comes from ComfyUI's cache.
            if await self.has_result(job.id):
                return RunResult(job.id, (result_file(job.id),), 0.0, cached=True)
            raise

    async def find(self, identity: Identity, job: Job) -> Found:
        """Look for a job that was running when the gateway or ComfyUI ended: in queue, history and output folder.

        ``known``: its prompt waits, runs or has ended there. ``file``: only its finished file is left. Otherwise
        nothing is left, because its ComfyUI ended (``worker_ended``), someone removed it (``removed``), or it never
        arrived (``never_sent``). A prompt that was found must not be queued again: ComfyUI takes the same id twice.
        """
        named = job.worker is not None and identity.instance is not None
        worker_ended = job.worker != identity.instance if named else job.sent  # without names, assume that it has
        found = await self._look(job.id)
        if found is None and not worker_ended and not job.sent:
            await asyncio.sleep(_LATE_POST_S)
            found = await self._look(job.id)
        if found is not None:
            return found
        if worker_ended:
            return "worker_ended"
        return "removed" if job.sent else "never_sent"

    async def tidy(self, job: Job) -> bool:
        """Remove the prompt from queue and execution, and the job's images; other prompts stay.

        Returns ``False`` if the prompt's current step takes so long that it still runs. A ``ServerAnswerError`` with
        status 500 means: try again later.
        """
        try:
            if not await self.client.cancel(job.id):
                return False
        except ServerAnswerError as error:
            if is_lost(error) or error.status == 500:
                raise
            _LOG.warning("clean-up on ComfyUI failed request_id=%s: %s", job.id, error)
            return True
        await self._remove_leftovers(job)
        return True

    async def _remove_leftovers(self, job: Job) -> None:
        try:
            await self.client.remove_leftovers(job.id)
        except ServerAnswerError as error:
            if is_lost(error) or error.status == 500:  # a file cannot be removed yet
                raise
            _LOG.warning("clean-up on ComfyUI failed request_id=%s: %s", job.id, error)

    async def _look(self, job_id: str) -> Found | None:
        if await self._knows(job_id):
            return "known"
        return "file" if await self.has_result(job_id) else None

    async def _knows(self, job_id: str) -> bool:
        """Whether the prompt waits, runs or has ended. The queue is read first: prompts move on to the history."""
        if (await self.client.queue()).position(job_id) is not None:
            return True
        return await self.client.history(job_id) is not None
