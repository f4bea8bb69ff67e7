"""What the API asks of the ComfyUI that runs its requests."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...client.comfy import ComfyClient, OutputFile
from ...client.errors import (
    ComfyError,
    PromptRejectedError,
    ServerAnswerError,
    ServerLostError,
    ServerUnreachableError,
    explain_rejection,
)
from ...client.preflight import check_graph
from ...client.progress import Progress
from ...client.run import RunResult, follow_graph
from ...contract.parameters import MODELS
from ...contract.workflow import Graph, fill, graph_for
from .records import Job

FOLDER = "wan_flf2v_api"  # below ComfyUI's input and output folders
ONCE = "wan_flf2v_once"  # in a prompt's extra data: this ComfyUI shall take no second prompt of its id
_VIDEO_NODE = "73"
_BAD_GATEWAY = (502, 503, 504)  # what a proxy in front of ComfyUI answers in its place
# The folders of an absolute path in a node's message; the file's name stays.
_FOLDERS = re.compile(r"""(?<![\w./\\])(?:[A-Za-z]:[\\/]|\\\\|/)(?:[^\s'"<>|:\\/][^'"<>|:\\/\n]*[\\/])+""")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Which ComfyUI answers: its version, and a text that differs for every start of it (``None`` if unknown)."""

    version: str
    instance: str | None


def is_lost(error: ComfyError) -> bool:
    """Whether the error says that ComfyUI cannot be asked now, rather than what it answered."""
    if isinstance(error, ServerAnswerError):
        return error.status in _BAD_GATEWAY
    return isinstance(error, (ServerLostError, ServerUnreachableError))


def public_text(error: ComfyError) -> str:
    """Return what a client is told of an error that ended its request: without folders and addresses of the server."""
    if isinstance(error, ServerAnswerError):
        return f"ComfyUI answered this request with HTTP status {error.status}. The API's log says more."
    return _FOLDERS.sub("", str(error))


def request_graph(job: Job, images: Mapping[str, str] | None = None) -> Graph:
    """Return the bundled graph with the request's values; ``images`` are names of uploaded ones by parameter."""
    model = MODELS[job.model_id]
    graph = fill(graph_for(model), model, {**job.values, **(images or {})})
    graph[_VIDEO_NODE]["inputs"]["filename_prefix"] = f"{FOLDER}/{job.id}"
    return graph


def result_file(job_id: str) -> OutputFile:
    """Return the file that a finished prompt has written; ComfyUI numbers the files of a prefix from 1."""
    return OutputFile(f"{job_id}_00001_.mp4", FOLDER, "output", _VIDEO_NODE)


class Host:
    """One ComfyUI. Every method raises a ``ComfyError``; ``is_lost`` tells whether to wait for it."""

    def __init__(self, client: ComfyClient, inputs: Path) -> None:
        self.client = client
        self._inputs = inputs

    async def identify(self) -> Identity:
        """Ask who is there."""
        stats = await self.client.system_stats()
        return Identity(str(stats["system"]["comfyui_version"]), await self.client.pack_instance())

    async def knows(self, job_id: str) -> bool:
        """Whether the prompt waits, runs or has ended there. The queue is read first: a prompt goes on to history."""
        if (await self.client.queue()).position(job_id) is not None:
            return True
        return await self.client.history(job_id) is not None

    async def has_result(self, job_id: str) -> bool:
        """Whether the prompt's file is there. It appears under its name only when it is whole."""
        return await self.client.has_file(result_file(job_id))

    async def check(self, job: Job) -> list[str]:
        """Have the request's graph checked against ComfyUI's files and machine; return what to warn its client of.

        Raises ``PreflightError`` if it cannot give the video.
        """
        return [_FOLDERS.sub("", text) for text in await check_graph(self.client, request_graph(job))]

    async def submit(self, job: Job) -> None:
        """Upload the request's images and queue its graph."""
        images = {
            key: await self.client.upload_image(self._inputs / name, f"{FOLDER}/{job.id}")
            for key, name in job.inputs.items()
        }
        graph = request_graph(job, images)
        try:
            node_errors = await self.client.queue_prompt(
                graph, prompt_id=job.id, client_id=job.id, extra_data={ONCE: True}
            )
        except PromptRejectedError:
            if await self.knows(job.id):  # a killed gateway's prompt came first
                return
            raise
        if node_errors:  # queued all the same, without the nodes at fault; tidy() takes it out
            raise explain_rejection(graph, None, node_errors)

    async def follow(self, job: Job, on_progress: Callable[[Progress], None]) -> RunResult:
        """Wait for the prompt's end."""
        return await follow_graph(self.client, request_graph(job), job.id, on_progress=on_progress)

    async def tidy(self, job: Job) -> bool:
        """Take the prompt out of queue and execution and remove the request's images; other prompts stay.

        Returns ``False`` if the prompt's current step takes so long that it still runs. A ``ServerAnswerError`` with
        status 500 says to try again later.
        """
        try:
            if not await self.client.cancel(job.id):
                return False
            await self.client.remove_inputs(job.id)
        except ServerAnswerError as error:
            if is_lost(error) or error.status == 500:  # the pack's route answers 500 if a file cannot be removed yet
                raise
            _log.warning("request %s may have left something on ComfyUI: %s", job.id, error)
        return True
