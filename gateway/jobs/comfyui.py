"""ComfyBackend, the client of one ComfyUI: checks, queues, follows and tidies a job there, and finds it again."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...client.comfy import ComfyClient, OutputFile
from ...client.errors import (
    ComfyError,
    NoOutputError,
    PromptRejectedError,
    ServerLostError,
    ServerResponseError,
    ServerUnreachableError,
    explain_rejection,
)
from ...client.offers import describe, find_lacking, is_model_file, lacking_in
from ...client.progress import Progress
from ...client.run import RunResult, check_graph, follow_graph
from ...contract.parameters import ModelContract
from ...contract.workflow import Graph, fill, graph_for, node_title, ui_form
from .blobs import Blobs
from .catalogue import Catalogue
from .records import Job, attempt_name, prompt_id
from .results import StorageError

FOLDER = "wan_flf2v_api"  # below ComfyUI's input and output folders
ONCE = "wan_flf2v_once"  # in a prompt's extra data: this ComfyUI must not take a second prompt with the same id
_BAD_GATEWAY = (502, 503, 504)  # a proxy in front of ComfyUI cannot reach it
# ComfyUI's previews are off by default. This method costs a matrix product a step, and node 57 then shows four frames;
# TAESD would decode the first frame alone, which is the start image.
_PREVIEW_METHOD = "latent2rgb"
# A killed gateway's last POST may still be on its way to ComfyUI, whose event loop can stall while a model loads.
_LATE_POST_S = 1.0
# The folders of an absolute path in a node's message; the file's name stays.
_FOLDERS = re.compile(r"""(?<![\w./\\])(?:[A-Za-z]:[\\/]|\\\\|/)(?:[^\s'"<>|:\\/][^'"<>|:\\/\n]*[\\/])+""")

_LOG = logging.getLogger("wan_flf2v.gateway")


class NoModelError(ComfyError):
    """The model of a job was removed, or another one now has its id."""


class NoImageError(ComfyError):
    """An image of a job is gone, because someone deleted it."""


Found = Literal["known", "file", "worker_ended", "removed", "never_sent"]


@dataclass(frozen=True)
class Identity:
    """The version of a ComfyUI, and a text that differs for every start of it (``None`` if it has none)."""

    version: str
    instance: str | None


def is_lost(error: ComfyError) -> bool:
    """Whether ComfyUI cannot be reached now; otherwise the error is its response."""
    if isinstance(error, ServerResponseError):
        return error.status in _BAD_GATEWAY
    return isinstance(error, (ServerLostError, ServerUnreachableError))


def public_text(error: ComfyError) -> str:
    """Return what a client is told about the error that ended its job: no folders and addresses of the server."""
    if isinstance(error, ServerResponseError):
        return f"ComfyUI responded to this request with HTTP status {error.status}. The API's log says more."
    return _FOLDERS.sub("", str(error))


def request_graph(model: ModelContract, job: Job, images: Mapping[str, str] | None = None) -> Graph:
    """Return the model's graph with the job's values; ``images`` maps parameters to the names of uploaded images."""
    graph = fill(graph_for(model), model, {**job.values, **(images or {})})
    graph[model.output_node]["inputs"]["filename_prefix"] = f"{FOLDER}/{job.attempt_name}"
    return graph


@functools.lru_cache(maxsize=64)
def loads(model: ModelContract | None) -> frozenset[str]:
    """Return the names of the model files that a model's graph loads; they stay in ComfyUI's memory."""
    nodes = graph_for(model).values() if model is not None else ()
    return frozenset(name for node in nodes for name in _files(node))


def _files(node: Mapping[str, Any]) -> list[str]:
    """Return the names of the model files that a node takes."""
    return [value for value in node["inputs"].values() if isinstance(value, str) and is_model_file(value)]


class ComfyBackend:
    """The client of one ComfyUI. Every method raises a ``ComfyError``; ``is_lost`` tells whether to wait for it.

    ``name`` is what the log calls that ComfyUI.
    """

    def __init__(self, client: ComfyClient, data: Path, blobs: Blobs, models: Catalogue, name: str) -> None:
        self.client = client
        self._name = name
        self._data = data
        self._blobs = blobs
        self._models = models
        self._identity: Identity | None = None
        self._nodes: set[str] = set()  # types of nodes that this process has: it has them until it ends

    async def identify(self) -> Identity:
        """Return which ComfyUI process is there."""
        stats = await self.client.system_stats()
        identity = Identity(str(stats["system"]["comfyui_version"]), await self.client.pack_instance())
        if identity.instance is None or identity != self._identity:
            self._identity, self._nodes = identity, set()
        return identity

    async def has_result(self, job: Job) -> bool:
        """Whether the prompt's file is there. Until it is whole, an empty file holds its name."""
        return await self.client.has_file(await self.result_file(job))

    async def result_file(self, job: Job) -> OutputFile:
        """Return the file that a finished prompt has written; ComfyUI numbers the files of a prefix from 1.

        Of a model that an operator added it is a guess: only the prompt's history knows what its node wrote.
        """
        model = await self._models.find(job.model_id)
        suffix = "png" if model is not None and model.makes == "image" else "mp4"
        node_id = model.output_node if model is not None else ""
        return OutputFile(f"{job.attempt_name}_00001_.{suffix}", FOLDER, "output", node_id)

    async def has_inputs(self, job: Job) -> bool:
        """Whether ComfyUI has the images that the job names and does not bring, and the files of the slots it fills."""
        model = await self._models.find(job.model_id)
        if model is None:
            return True
        named = [parameter for parameter in model.parameters if parameter.key in job.values.keys() - job.inputs.keys()]
        of_slots = {one.key: job.values[one.key] for one in named if one.inputs[0].node_id in model.slots}
        filled = fill(graph_for(model), model, of_slots)
        if await find_lacking(self.client, {node_id: filled[node_id] for node_id in model.slots if node_id in filled}):
            return False
        names = [str(job.values[parameter.key]) for parameter in named if parameter.is_image]
        files = [OutputFile(name, "", "input", "") for name in names]
        try:
            return all(await asyncio.gather(*map(self.client.has_file, files)))
        except ServerResponseError as error:  # ComfyUI does not show such a file
            if is_lost(error):
                raise
            return False

    async def lacking(self, model_id: str) -> list[str]:
        """Return what a model lacks on this ComfyUI."""
        model = await self._models.find(model_id)
        if model is None:
            return []
        nodes, known = graph_for(model), self._nodes
        graph = {key: nodes[key] for key in nodes if nodes[key]["class_type"] not in known or _files(nodes[key])}
        infos = await describe(self.client, graph)
        known |= {class_type for class_type, info in infos.items() if info is not None}
        return lacking_in(graph, infos)

    async def check(self, job: Job) -> list[str]:
        """Run preflight on the job's graph; return the warnings. Raises ``PreflightError`` if it cannot run."""
        graph = request_graph(await self._model_of(job), job)
        return [_FOLDERS.sub("", text) for text in await check_graph(self.client, graph)]

    async def submit(self, job: Job) -> None:
        """Upload the job's images and queue its graph; also raises ``StoreError`` and ``StorageError``."""
        model = await self._model_of(job)
        await self._remove_leftovers(job, range(1, job.attempt))
        images = {
            key: await self.client.upload_image(await self._image(name), f"{FOLDER}/{job.attempt_name}")
            for key, name in job.inputs.items()
        }
        graph = request_graph(model, job, images)
        extra_data: dict[str, Any] = {ONCE: True, "preview_method": _PREVIEW_METHOD}
        if model.graph is None:
            extra_data["extra_pnginfo"] = {"workflow": ui_form(model.workflow, graph)}
        try:
            node_errors = await self.client.queue_prompt(
                graph, prompt_id=job.prompt_id, client_id=job.prompt_id, extra_data=extra_data
            )
        except PromptRejectedError:
            if await self._knows(job):  # a killed gateway's prompt came first
                return
            raise
        if node_errors:  # ComfyUI queued the graph without the bad nodes; tidy() removes it
            raise explain_rejection(graph, None, node_errors)

    async def _image(self, name: str) -> Path:
        """Return the path of a stored image, which may have to be brought here."""
        stored = f"inputs/{name}"
        try:
            found = await self._blobs.find(self._data, stored)
        except OSError as error:
            raise StorageError(f"An image of a request cannot be written: {error}") from error
        if not found:
            raise NoImageError("An image of this request is no longer kept. Submit the request again, with its images.")
        return self._data / stored

    async def follow(
        self, job: Job, on_progress: Callable[[Progress], None], on_preview: Callable[[bytes], None]
    ) -> RunResult:
        """Wait until the prompt has ended; raise the error that ended it. The files are those of the output node."""
        model = await self._model_of(job)
        callbacks: Any = {"on_progress": on_progress, "on_preview": on_preview}
        try:
            run = await follow_graph(self.client, request_graph(model, job), job.prompt_id, **callbacks)
            files = tuple(file for file in run.files if file.node_id == model.output_node)
            if not files:
                title = node_title(graph_for(model), model.output_node)
                raise NoOutputError(f'The run finished, but its node {model.output_node} "{title}" reported no file.')
            return replace(run, files=files)
        except NoOutputError:
            # A prompt that was queued twice, by a gateway that died meanwhile, comes from ComfyUI's cache.
            if await self.has_result(job):
                return RunResult(job.prompt_id, (await self.result_file(job),), 0.0)
            raise

    async def find(self, identity: Identity, job: Job) -> Found:
        """Look for a job that was running when the gateway or ComfyUI ended: in queue, history and output folder.

        ``known``: its prompt waits, runs or has ended there. ``file``: only its finished file is left. Otherwise
        nothing is left, because its ComfyUI ended (``worker_ended``), someone removed it (``removed``), or it never
        arrived (``never_sent``). A prompt that was found must not be queued again: ComfyUI takes the same id twice.
        """
        named = job.worker is not None and identity.instance is not None
        worker_ended = job.worker != identity.instance if named else job.sent  # without names, assume that it has
        found = await self._look(job)
        if found is None and not worker_ended and not job.sent:
            await asyncio.sleep(_LATE_POST_S)
            found = await self._look(job)
        if found is not None:
            return found
        if worker_ended:
            return "worker_ended"
        return "removed" if job.sent else "never_sent"

    async def tidy(self, job: Job) -> bool:
        """Remove the prompts of all attempts from queue and execution, and their images; other prompts stay.

        Returns ``False`` if the prompt's current step takes so long that it still runs. A ``ServerResponseError`` with
        status 500 means: try again later.
        """
        try:
            for attempt in range(1, max(job.attempt, 1) + 1):
                if not await self.client.cancel(prompt_id(job.id, attempt)):
                    return False
        except ServerResponseError as error:
            if is_lost(error) or error.status == 500:
                raise
            told = job.id, job.attempt, self._name
            _LOG.warning("clean-up on ComfyUI failed request_id=%s attempt=%d worker=%s: %s", *told, error)
            return True
        await self._remove_leftovers(job, range(1, max(job.attempt, 1) + 1))
        return True

    async def _model_of(self, job: Job) -> ModelContract:
        model = await self._models.find(job.model_id)
        if model is None or not job.values.keys() <= {parameter.key for parameter in model.parameters}:
            raise NoModelError(
                f"The model {job.model_id} was removed from this API, or replaced, before this request had run. Submit "
                "it again, to a model that the API lists now."
            )
        return model

    async def _remove_leftovers(self, job: Job, attempts: Iterable[int]) -> None:
        try:
            for attempt in attempts:
                await self.client.remove_leftovers(attempt_name(job.id, attempt))
        except ServerResponseError as error:
            if is_lost(error) or error.status == 500:  # a file cannot be removed yet
                raise
            told = job.id, job.attempt, self._name
            _LOG.warning("clean-up on ComfyUI failed request_id=%s attempt=%d worker=%s: %s", *told, error)

    async def _look(self, job: Job) -> Found | None:
        if await self._knows(job):
            return "known"
        return "file" if await self.has_result(job) else None

    async def _knows(self, job: Job) -> bool:
        """Whether the prompt waits, runs or has ended. The queue is read first: prompts move on to the history."""
        if (await self.client.queue()).position(job.prompt_id) is not None:
            return True
        return await self.client.history(job.prompt_id) is not None
