"""The client of one ComfyUI: upload, queue, follow, cancel and download over its HTTP and websocket API."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from ..contract.workflow import Graph
from .connection import Connection
from .errors import ServerRefusedError, ServerResponseError, ServerUnreachableError, explain_rejection

UPLOAD_FOLDER = "wan_flf2v"  # below ComfyUI's input folder
REFUSED = "X-Comfyui-Refused"  # a header of a worker's response: nothing listens at its ComfyUI's address
_CANCEL_RETRY_S = 0.5
_HEARTBEAT_S = 30.0
# What ComfyUI's feature_flags takes as the first message, and the binary messages that it then sends (its protocol.py
# and server.py): the type, the length of the metadata, the metadata as JSON, the picture. Numbers are big endian.
_WITH_METADATA = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
_PREVIEW_WITH_METADATA = 4


@dataclass(frozen=True)
class Event:
    """One websocket message of the server: its type (``progress_state``, ``execution_error``, …) and its data.

    The type ``preview`` is a picture of what a node makes: ``data["image"]`` is a JPEG or PNG file.
    """

    type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class OutputFile:
    """A file a node reported; ``type`` is ComfyUI's folder (``output``, ``temp`` or ``input``)."""

    filename: str
    subfolder: str
    type: str
    node_id: str


@dataclass(frozen=True)
class Queue:
    """Prompt ids that run now and that wait, next first."""

    running: tuple[str, ...]
    pending: tuple[str, ...]

    def position(self, prompt_id: str) -> int | None:
        """Return 0 while the prompt runs, 1 if it is the next, …; ``None`` if it is not there."""
        if prompt_id in self.running:
            return 0
        return self.pending.index(prompt_id) + 1 if prompt_id in self.pending else None


@dataclass(frozen=True)
class Findings:
    """What the server's pack finds in a graph: ``errors`` make it pointless to queue it, ``warnings`` do not."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


class ComfyClient(Connection):
    """One ComfyUI, 0.18.2 or newer. Use it as ``async with ComfyClient(url) as client``.

    On a loopback address the certificate is never checked: it names the host as others see it, and nobody can be
    between here and there. Every method raises ``ServerUnreachableError`` if ComfyUI does not respond and
    ``ServerResponseError`` if it responds with an HTTP error.
    """

    def __init__(
        self,
        url: str,
        *,
        verify_tls: bool = True,
        token: str | None = None,
        ip_address: str | None = None,
        dial: Callable[[], socket.socket] | None = None,
    ) -> None:
        super().__init__(url, token=token, ip_address=ip_address, dial=dial)
        self._check_certificate = verify_tls and not _is_loopback(self._base.host)

    def relay(
        self, method: str, target: str, **options: Any
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Make a request that someone else made; ``target`` is its path and query as they were sent."""
        return self._request(method, self._target(target), allow_redirects=False, **options)

    def relay_socket(
        self, target: str
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse[bool]]:
        """Open a websocket for someone else; ``target`` is as in ``relay``."""
        return self._open_socket(self._target(target))

    @contextlib.asynccontextmanager
    async def _open_socket(self, url: URL) -> AsyncIterator[aiohttp.ClientWebSocketResponse[bool]]:
        try:
            async with self._http.ws_connect(url, max_msg_size=0, heartbeat=_HEARTBEAT_S) as socket:
                yield socket
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    def _target(self, target: str) -> URL:
        return URL(str(self._base).rstrip("/") + target, encoded=True)

    async def system_stats(self) -> dict[str, Any]:
        """Return ``/system_stats``: versions, devices and memory."""
        stats = await self._json("GET", "system_stats")
        if not isinstance(stats, dict) or "comfyui_version" not in stats.get("system", {}):
            raise self._not_comfyui()
        return stats

    async def object_info(self, class_type: str) -> dict[str, Any] | None:
        """Return what the server knows about a node type, ``None`` if it has no such type."""
        info: dict[str, Any] | None = (await self._json("GET", f"object_info/{class_type}")).get(class_type)
        return info

    async def upload_image(self, path: Path, folder: str = UPLOAD_FOLDER, *, shown: Path | None = None) -> str:
        """Upload an image file to ``folder`` below the input folder and return the name a LoadImage node takes.

        The name is made from the content, so that nothing of the user's is overwritten and a second upload of the
        same file changes nothing. ``shown`` is what an error calls the file.
        """
        content, digest = await asyncio.to_thread(_read, path)
        suffix = path.suffix.lower() if path.suffix[1:].isalnum() and path.suffix.isascii() else ""
        form = aiohttp.FormData()
        form.add_field("image", content, filename=digest[:32] + suffix)
        for name, value in (("type", "input"), ("subfolder", folder), ("overwrite", "true")):
            form.add_field(name, value)
        try:
            stored = await self._json("POST", "upload/image", data=form)
        except ServerResponseError as error:
            if error.status == 413:
                message = (
                    f"{shown or path} is larger than ComfyUI takes ({len(content) >> 20} MB). Give a smaller file."
                )
                raise ServerResponseError(message, error.status) from error
            raise
        return f"{stored['subfolder']}/{stored['name']}"

    async def queue_prompt(
        self, graph: Graph, *, prompt_id: str, client_id: str, extra_data: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Queue ``graph`` under ``prompt_id`` (a canonical lowercase UUID); events go to ``client_id``'s websocket.

        Returns ``node_errors``: nodes ComfyUI leaves out although it runs the rest, empty as a rule. Raises
        ``PromptRejectedError`` if it runs nothing.
        """
        request = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id, "extra_data": extra_data or {}}
        async with self._request("POST", "prompt", json=request) as response:
            content = await self._content(response)
        if response.status == 400 and isinstance(content, dict):
            raise explain_rejection(graph, content.get("error"), content.get("node_errors"))
        self._check_status(response, content)
        node_errors: dict[str, Any] = content.get("node_errors") or {}
        return node_errors

    async def events(self, client_id: str) -> AsyncIterator[Event]:
        """Yield the server's websocket messages for ``client_id`` until the connection ends.

        ComfyUI sends ``status`` at once, so the first event says that the connection stands.
        """
        async with self._open_socket((self._base / "ws").with_query(clientId=client_id)) as socket:
            await socket.send_json(_WITH_METADATA)
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    content = json.loads(message.data)
                    yield Event(content["type"], content.get("data") or {})
                elif message.type is aiohttp.WSMsgType.BINARY and (preview := _preview(message.data)) is not None:
                    yield preview

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the record of a finished prompt, ``None`` if it has not finished or is unknown."""
        record: dict[str, Any] | None = (await self._json("GET", f"history/{prompt_id}")).get(prompt_id)
        return record

    async def queue(self) -> Queue:
        """Return which prompts run and which wait."""
        content = await self._json("GET", "queue")
        pending = sorted(content["queue_pending"], key=lambda item: item[0])  # the server sends its heap as it lies
        return Queue(tuple(item[1] for item in content["queue_running"]), tuple(item[1] for item in pending))

    async def cancel(self, prompt_id: str, *, timeout_s: float = 10.0) -> bool:
        """Take exactly this prompt out of the queue, or stop it if it runs; other prompts are not touched.

        Returns whether it is gone; ``False`` means that it was told to stop, but its current step takes longer than
        ``timeout_s``. An unknown or finished prompt is gone already.

        A host without cancel by id (before ``/api/jobs/{id}/cancel``) has a gap: its ``/interrupt`` compares the id and
        then sets one flag for whatever runs, without a lock. If this prompt ends and another starts just in between,
        that other one is interrupted.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (position := (await self.queue()).position(prompt_id)) is not None:
            if asyncio.get_running_loop().time() >= deadline:
                return False
            # Repeated until it is gone: a prompt clears the interrupt flag when it starts (execution.py), and a
            # waiting one may have started since.
            await self._cancel_once(prompt_id, running=position == 0)
            await asyncio.sleep(_CANCEL_RETRY_S)
        return True

    async def download(self, file: OutputFile, target: Path) -> Path:
        """Save a file of the server as ``target``, which appears only when it is complete. Replaces a file there."""
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        async with self._request("GET", "view", params=query) as response:
            if response.status == 404:
                message = (
                    f'ComfyUI at {self.url} reported the file "{file.filename}" but no longer has it: it was deleted '
                    "or moved. Change the seed, so that the result does not come from ComfyUI's cache."
                )
                raise ServerResponseError(message, 404)
            self._check_status(response, None)
            return await self._save(response, target)

    async def has_file(self, file: OutputFile) -> bool:
        """Return whether the server has a file that is not empty: an empty one is a name that a run has reserved."""
        query = {"filename": file.filename, "type": file.type}
        if file.subfolder:
            query["subfolder"] = file.subfolder
        async with self._request("HEAD", "view", params=query) as response:
            if response.status != 404:
                self._check_status(response, None)
            return response.status == 200 and response.content_length != 0

    async def pack_instance(self) -> str | None:
        """Return a text that changes with every start of ComfyUI, ``None`` if its pack does not tell one."""
        async with self._request("GET", "wan_flf2v/instance") as response:
            content = await self._content(response)
        if response.status != 404:
            self._check_status(response, content)
        return str(content["instance"]) if isinstance(content, dict) and "instance" in content else None

    async def preflight(self, graph: Graph) -> Findings | None:
        """Have ``graph`` checked by the server's pack before it is queued; ``None`` if its pack has no such check."""
        async with self._request("POST", "wan_flf2v/preflight", json={"prompt": graph}) as response:
            content = await self._content(response)
        if response.status in (404, 405):
            return None
        self._check_status(response, content)
        if not isinstance(content, dict):
            return None
        return Findings(tuple(map(str, content.get("errors", ()))), tuple(map(str, content.get("warnings", ()))))

    async def outputs(self, prompt_id: str, node_id: str) -> dict[str, Any]:
        """Return what a node of a finished prompt showed in the app, such as ``text``; nothing if it showed nothing."""
        record = await self.history(prompt_id) or {}
        shown: dict[str, Any] = record.get("outputs", {}).get(node_id, {})
        return shown

    async def remove_leftovers(self, name: str) -> None:
        """Remove what an attempt at a request of the hosted API left, but its result, through a route of this pack.

        That is its uploaded images, and the empty file that a ComfyUI that ended had reserved for its video.
        """
        async with self._request("DELETE", f"wan_flf2v/inputs/{name}") as response:
            self._check_status(response, None)

    def _check(self, response: aiohttp.ClientResponse, content: Any) -> None:
        self._check_status(response, content)
        if content is None:
            raise self._not_comfyui()

    def _check_status(self, response: aiohttp.ClientResponse, content: Any) -> None:
        if response.status < 400:
            return
        if REFUSED in response.headers:
            raise ServerRefusedError(f"ComfyUI at {self.url} is not running: {response.headers[REFUSED]}")
        reason = content.get("error") if isinstance(content, dict) else None
        status = f"{response.status} {reason or response.reason}"
        text = f"ComfyUI at {self.url} responded to {response.url.path} with {status}."
        raise ServerResponseError(text, response.status)

    def _not_comfyui(self) -> ServerUnreachableError:
        return ServerUnreachableError(f"The server at {self.url} is not a ComfyUI. Give the address of a ComfyUI.")

    async def _cancel_once(self, prompt_id: str, *, running: bool) -> None:
        """Cancel by id where the server can (it holds its lock meanwhile), else through the older routes."""
        async with self._request("POST", f"api/jobs/{prompt_id}/cancel") as response:
            if response.status not in (404, 405):
                self._check_status(response, await self._content(response))
                return
        if running:
            request = self._request("POST", "interrupt", json={"prompt_id": prompt_id})
        else:
            request = self._request("POST", "queue", json={"delete": [prompt_id]})
        async with request as response:
            self._check_status(response, None)


def _preview(message: bytes) -> Event | None:
    """Return what a binary message shows; ``None`` if it is another one, perhaps of another pack."""
    if int.from_bytes(message[:4], "big") != _PREVIEW_WITH_METADATA:
        return None
    end = 8 + int.from_bytes(message[4:8], "big")
    try:
        metadata = json.loads(message[8:end])
    except ValueError:
        return None
    return Event("preview", {**metadata, "image": message[end:]}) if isinstance(metadata, dict) else None


def _read(path: Path) -> tuple[bytes, str]:
    """Return a file's content and its SHA-256."""
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
