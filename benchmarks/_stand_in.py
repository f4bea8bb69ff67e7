"""A stand-in for ComfyUI: it speaks the HTTP and websocket protocol, and waits in place of running a graph.

For what needs many ComfyUIs, or one that falls silent at the right moment. It runs in the caller's event loop. The node
with ``steps`` counts them, the one with ``filename_prefix`` "writes" the same video each time, with the prompt's id at
its end. Or it replays the trace of a real run. It can stall (its event loop stands still), die, and come back as
another process. ``version`` sets which rules it follows: 0.18.2 takes any prompt id and has no cancel by id.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import av
from aiohttp import WSMsgType, web

from ..contract.parameters import MODELS
from ..contract.workflow import Graph, graph_for

_TICK_S = 0.05
_LEAST_GAP_S = 0.02  # between two messages of a trace, so that a client can tell each
_TEXT = 3  # of the binary messages, as ComfyUI's protocol.py numbers them
_LOADERS = ("unet_name", "vae_name", "clip_name", "lora_name")

File = tuple[str, str, str]  # folder type, subfolder, name


def free_box(content: bytes) -> bytes:
    """Return an MP4 box that players skip (ISO/IEC 14496-12, 8.1.2)."""
    return (len(content) + 8).to_bytes(4, "big") + b"free" + content


@functools.cache
def small_video(frames: int = 2) -> bytes:
    """Return a video that can be read."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=16)
        video.width = video.height = 64
        for _ in range(frames):
            container.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(video.encode())
    return stream.getvalue()


class Run(NamedTuple):
    """One run: the prompt, when it began and ended (monotonic seconds), and the model files that it loaded."""

    prompt_id: str
    start: float
    end: float | None
    loaded: frozenset[str]


@dataclass
class Prompt:
    """One prompt as it waits, runs, and is remembered."""

    number: int
    id: str
    graph: Graph
    client: str
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def counting(self) -> str:
        """The id of the node that counts steps."""
        return next(node_id for node_id, node in self.graph.items() if "steps" in node["inputs"])

    @property
    def saving(self) -> str:
        """The id of the node that writes a file."""
        return next(node_id for node_id, node in self.graph.items() if "filename_prefix" in node["inputs"])

    def item(self) -> list[Any]:
        """Return the prompt as ``/queue`` lists it."""
        return [self.number, self.id, self.graph, {"client_id": self.client}, [self.saving]]


class StandIn:
    """``async with StandIn(…)`` is a ComfyUI that listens at ``url``.

    A run takes ``seconds``. ``lacks`` are model files that its loaders do not list. ``files`` are the input and output
    folders; two with the same ones share a base folder. ``ran`` lists what it has run, and runs.

    ``trace`` is what a real run sent, as in tests/support/streams/run_0.30.0.json: the graph, the websocket's events
    with their times in seconds, and the history. Each prompt, which must be that graph whatever its nodes' ids are,
    then gets the same messages in ``seconds``, though no two at once, and the same outputs. Of ``progress_state``, an
    event has the nodes that changed; the type ``text`` stands for a binary message of that kind.
    """

    def __init__(
        self,
        *,
        seconds: float = 0.0,
        lacks: tuple[str, ...] = (),
        files: dict[File, bytes] | None = None,
        video: bytes | None = None,
        version: str = "0.30.0",
        trace: dict[str, Any] | None = None,
    ) -> None:
        self.seconds = seconds
        self.lacks = lacks
        self.files = files if files is not None else {}
        self.ran: list[Run] = []
        self.port = 0
        self._video = video or small_video()
        self.version = version
        self._trace = trace
        self._runner: web.AppRunner | None = None
        self._awake, self._files_free = asyncio.Event(), asyncio.Event()
        self._files_free.set()
        self.held = 0  # calls that wait for a file
        self.headers: dict[str, str] = {}  # of the latest request
        self._forget()

    @property
    def url(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> StandIn:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    # What can happen to it

    async def start(self) -> None:
        """Start, as a new process at the same port; files are as they were."""
        self._forget()
        self._awake.set()
        app = web.Application(client_max_size=1 << 30, middlewares=[self._stall])
        app.add_routes(self._routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]
        self._running_task = asyncio.create_task(self._run())

    async def kill(self) -> None:
        """Die as a killed process does: connections break, nothing listens, queue and history are gone."""
        if self._runner is None:
            return
        self._running_task.cancel()
        server = self._runner.server
        for connection in list(server.connections) if server is not None else []:
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()
        self._runner = None

    def stall(self) -> None:
        """Stand still, as an event loop does while a model loads: connections are taken, and nothing responds."""
        self._awake.clear()

    def go_on(self) -> None:
        """Respond again, also to what was asked meanwhile."""
        self._awake.set()

    def hold_files(self) -> None:
        """Send no file until ``release_files``."""
        self._files_free.clear()

    def release_files(self) -> None:
        """Send files again."""
        self._files_free.set()

    async def drop_sockets(self) -> None:
        """Close all websockets."""
        for socket in list(self._sockets.values()):
            await socket.close()

    def _forget(self) -> None:
        self.instance = uuid.uuid4().hex
        self._pending: list[Prompt] = []
        self._current: Prompt | None = None
        self._history: dict[str, Prompt] = {}
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._once: set[str] = set()
        self._number = 0
        self._news = asyncio.Event()

    # Running

    async def _run(self) -> None:
        while True:
            while not self._pending:
                self._news.clear()
                await self._news.wait()
            prompt = self._current = self._pending.pop(0)
            place, started = len(self.ran), time.monotonic()
            inputs = [
                value for node in prompt.graph.values() for name, value in node["inputs"].items() if name in _LOADERS
            ]
            self.ran.append(Run(prompt.id, started, None, frozenset(inputs)))
            await (self._count(prompt, started) if self._trace is None else self._replay(prompt, self._trace))
            self._history[prompt.id] = prompt
            self._current = None
            self.ran[place] = self.ran[place]._replace(end=time.monotonic())
            await self._tell(prompt, "executing", node=None)

    async def _count(self, prompt: Prompt, started: float) -> None:
        """Count steps, then write the video."""
        await self._message(prompt, "execution_start")
        inputs = prompt.graph[prompt.counting]["inputs"]
        await self._tell(prompt, "executing", node=prompt.counting)
        counted = -1
        while not prompt.interrupted:
            seconds = inputs["seconds"] * inputs["steps"] if "seconds" in inputs else self.seconds
            if (done := time.monotonic() - started) >= seconds:
                break
            if (step := int(done / seconds * inputs["steps"])) > counted:
                counted = step
                await self._progress(prompt, step)
            await asyncio.sleep(min(_TICK_S, seconds - done))
            await self._awake.wait()
        if prompt.interrupted:
            await self._message(prompt, "execution_interrupted", node_id=prompt.counting)
        else:
            self._write(prompt)
            await self._message(prompt, "execution_success")

    async def _replay(self, prompt: Prompt, trace: dict[str, Any]) -> None:
        """Send what the trace has, then have its files and its history."""
        events, nodes, at = trace["events"], {}, 0.0
        scale = self.seconds / (events[-1]["t"] or 1.0)
        own = functools.partial(_renamed, names=dict(zip(trace["graph"], prompt.graph, strict=True)))
        for event in events[:-1]:  # the last one says that nothing runs, as after each run
            gap, at = max((event["t"] - at) * scale, _LEAST_GAP_S), event["t"]
            for _ in range(max(2, round(gap / _TICK_S))):
                await asyncio.sleep(gap / max(2, round(gap / _TICK_S)))
                await self._awake.wait()
            if prompt.interrupted:
                await self._message(prompt, "execution_interrupted", node_id=prompt.counting)
                return
            kind, data = event["type"], own(event["data"])
            if kind == "status":  # tells of the queue, not of a prompt
                await self._send(prompt.client, kind, data)
            elif kind == "text":
                await self._send_text(prompt.client, data["node"], data["text"])
            elif kind == "progress_state":
                nodes |= {node_id: _state(prompt, state) for node_id, state in data["nodes"].items()}
                await self._tell(prompt, kind, nodes=nodes)
            else:
                await self._tell(prompt, kind, **data)
        history = own(trace["history"])
        prompt.outputs, prompt.meta = history["outputs"], history["meta"]
        prompt.messages = [(kind, {"prompt_id": prompt.id, **data}) for kind, data in history["status"]["messages"]]
        for output in prompt.outputs.values():
            for file in output["images"]:
                self.files[file["type"], file["subfolder"], file["filename"]] = self._video

    def _write(self, prompt: Prompt) -> None:
        """Write the video under its prefix; ComfyUI numbers the files of a prefix from 1."""
        folder, _, prefix = str(prompt.graph[prompt.saving]["inputs"]["filename_prefix"]).rpartition("/")
        number = sum(1 for kind, where, name in self.files if (kind, where) == ("output", folder) and prefix in name)
        name = f"{prefix}_{number + 1:05}_.mp4"
        self.files["output", folder, name] = self._video + free_box(prompt.id.encode())
        file = {"filename": name, "subfolder": folder, "type": "output"}
        prompt.outputs[prompt.saving] = {"images": [file], "animated": [True]}

    async def _progress(self, prompt: Prompt, step: int) -> None:
        node_id = prompt.counting
        steps = prompt.graph[node_id]["inputs"]["steps"]
        state = {"value": step, "max": steps, "state": "running", "node_id": node_id}
        await self._tell(prompt, "progress_state", nodes={node_id: {**state, "prompt_id": prompt.id}})

    async def _message(self, prompt: Prompt, kind: str, **data: Any) -> None:
        """Send a message that the history keeps."""
        content = {"prompt_id": prompt.id, "timestamp": int(time.time() * 1000), **data}
        prompt.messages.append((kind, content))
        await self._send(prompt.client, kind, content)

    async def _tell(self, prompt: Prompt, kind: str, **data: Any) -> None:
        await self._send(prompt.client, kind, {"prompt_id": prompt.id, **data})

    async def _send(self, client: str, kind: str, data: dict[str, Any]) -> None:
        socket = self._sockets.get(client)
        if socket is not None and not socket.closed:
            with contextlib.suppress(ConnectionError):
                await socket.send_json({"type": kind, "data": data})

    async def _send_text(self, client: str, node_id: str, text: str) -> None:
        """Send a line for a node to show, as ComfyUI's ``send_progress_text`` does: the type, then id and text."""
        socket = self._sockets.get(client)
        if socket is not None and not socket.closed:
            with contextlib.suppress(ConnectionError):
                name = node_id.encode()
                await socket.send_bytes(_TEXT.to_bytes(4, "big") + len(name).to_bytes(4, "big") + name + text.encode())

    # The protocol

    @web.middleware
    async def _stall(self, request: web.Request, handler: Any) -> web.StreamResponse:
        await self._awake.wait()
        self.headers = dict(request.headers)
        response: web.StreamResponse = await handler(request)
        return response

    def _routes(self) -> list[web.RouteDef]:
        routes = [
            web.get("/system_stats", self._system_stats),
            web.get("/object_info/{type}", self._object_info),
            web.post("/upload/image", self._upload),
            web.get("/view", self._view),
            web.post("/prompt", self._prompt),
            web.get("/queue", self._queue),
            web.post("/queue", self._delete),
            web.post("/interrupt", self._interrupt),
            web.get("/history/{id}", self._get_history),
            web.get("/ws", self._socket),
            web.get("/wan_flf2v/instance", self._get_instance),
            web.post("/wan_flf2v/preflight", self._preflight),
            web.delete("/wan_flf2v/inputs/{name}", self._remove_inputs),
        ]
        return routes if self._is_old() else [*routes, web.post("/api/jobs/{id}/cancel", self._cancel)]

    def _is_old(self) -> bool:
        return self.version == "0.18.2"

    async def _system_stats(self, _: web.Request) -> web.Response:
        return web.json_response({"system": {"comfyui_version": self.version}, "devices": []})

    async def _get_instance(self, _: web.Request) -> web.Response:
        return web.json_response({"instance": self.instance})

    async def _preflight(self, _: web.Request) -> web.Response:
        return web.json_response({"errors": [], "warnings": []})

    async def _object_info(self, request: web.Request) -> web.Response:
        class_type, inputs = request.match_info["type"], {}
        for node in (node for model in MODELS.values() for node in graph_for(model).values()):
            if node["class_type"] == class_type:
                for name in node["inputs"].keys() & set(_LOADERS):
                    known = inputs.setdefault(name, [[]])[0]
                    if node["inputs"][name] not in (*self.lacks, *known):
                        known.append(node["inputs"][name])
        return web.json_response({class_type: {"input": {"required": inputs}}})

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        image, folder = form["image"], str(form.get("subfolder", ""))
        assert isinstance(image, web.FileField)  # noqa: S101 -- the client sends a file
        self.files["input", folder, image.filename] = image.file.read()
        return web.json_response({"name": image.filename, "subfolder": folder, "type": "input"})

    async def _view(self, request: web.Request) -> web.Response:
        query = request.query
        if request.method == "GET":
            self.held += 1
            try:
                await self._files_free.wait()
            finally:
                self.held -= 1
        content = self.files.get((query.get("type", "output"), query.get("subfolder", ""), query["filename"]))
        return web.Response(status=404) if content is None else web.Response(body=content)

    async def _remove_inputs(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        for kind, folder, file in list(self.files):
            if kind == "input" and folder.rpartition("/")[2] == name:
                del self.files[kind, folder, file]
        return web.Response(status=204)

    async def _prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt_id = str(body.get("prompt_id") or uuid.uuid4())
        if not self._is_old() and prompt_id != str(uuid.UUID(prompt_id)):
            return _refuse("invalid_prompt_id", "prompt_id must be a valid UUID")
        if self._trace is not None and _types(body["prompt"]) != _types(self._trace["graph"]):
            return _refuse("prompt_outputs_failed_validation", "This is not the graph whose run was recorded.")
        if (body.get("extra_data") or {}).get("wan_flf2v_once"):
            if prompt_id in self._once:
                return _refuse("prompt_no_outputs", "Prompt has no outputs")
            self._once.add(prompt_id)
        self._pending.append(Prompt(self._number, prompt_id, body["prompt"], str(body.get("client_id"))))
        self._number += 1
        self._news.set()
        return web.json_response({"prompt_id": prompt_id, "number": self._number - 1, "node_errors": {}})

    async def _queue(self, _: web.Request) -> web.Response:
        running = [self._current.item()] if self._current is not None else []
        return web.json_response({"queue_running": running, "queue_pending": [each.item() for each in self._pending]})

    async def _get_history(self, request: web.Request) -> web.Response:
        prompt = self._history.get(request.match_info["id"])
        if prompt is None:
            return web.json_response({})
        text = "error" if prompt.interrupted else "success"
        status = {"status_str": text, "completed": not prompt.interrupted, "messages": prompt.messages}
        record = {"prompt": prompt.item(), "outputs": prompt.outputs, "status": status, "meta": prompt.meta}
        return web.json_response({prompt.id: record})

    async def _delete(self, request: web.Request) -> web.Response:
        unwanted = (await request.json()).get("delete", [])
        self._pending = [prompt for prompt in self._pending if prompt.id not in unwanted]
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        wanted = (await request.json()).get("prompt_id")
        if self._current is not None and wanted in (None, self._current.id):
            self._current.interrupted = True
        return web.Response()

    async def _cancel(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        before = len(self._pending)
        self._pending = [prompt for prompt in self._pending if prompt.id != wanted]
        running = self._current is not None and self._current.id == wanted
        if running and self._current is not None:
            self._current.interrupted = True
        return web.json_response({"cancelled": running or len(self._pending) < before})

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = request.query.get("clientId") or uuid.uuid4().hex
        self._sockets[client] = socket
        await socket.send_json({"type": "status", "data": {"status": {}, "sid": client}})
        async for message in socket:
            if message.type is WSMsgType.ERROR:
                break
        if self._sockets.get(client) is socket:
            del self._sockets[client]
        return socket


def _types(graph: Graph) -> list[str]:
    return [node["class_type"] for node in graph.values()]


def _renamed(data: Any, *, names: dict[str, str]) -> Any:
    """Return JSON with other node ids, as keys and as values."""
    if isinstance(data, dict):
        return {names.get(key, key): _renamed(value, names=names) for key, value in data.items()}
    if isinstance(data, list):
        return [_renamed(value, names=names) for value in data]
    return names.get(data, data) if isinstance(data, str) else data


def _state(prompt: Prompt, state: dict[str, Any]) -> dict[str, Any]:
    """Return a node's state with what it repeats of the node and the prompt."""
    node_id = state["node_id"]
    return {
        **state,
        "prompt_id": prompt.id,
        "display_node_id": node_id,
        "parent_node_id": None,
        "real_node_id": node_id,
    }


def _refuse(kind: str, message: str) -> web.Response:
    error = {"type": kind, "message": message, "details": message, "extra_info": {}}
    return web.json_response({"error": error, "node_errors": {}}, status=400)


@contextlib.asynccontextmanager
async def stand_ins(count: int, **options: Any) -> AsyncIterator[list[StandIn]]:
    """Start several, each with these options."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(StandIn(**options)) for _ in range(count)]
