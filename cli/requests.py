"""``wan-flf2v submit``, ``status``, ``result``, ``cancel`` and ``watch``: requests to a hosted API."""

from __future__ import annotations

import asyncio
import base64
import json
import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ..client.errors import ComfyError, HostedApiError
from ..client.hosted_api import HostedApi
from ..client.images import ImageError, check_image
from ..contract.parameters import END_IMAGE, HOSTED, MODELS, PROMPT, START_IMAGE, Value
from ..contract.validation import ContractError, validate
from .shared import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, describe_step, err, fail, merge_assignments, say

DEFAULT_API = HostedApi.example  # where `wan-flf2v serve` is
_T = TypeVar("_T")

_Api = Annotated[str, typer.Option("--api", envvar="RUNCOMFY_MODEL_API_BASE", help="The API's address, with /v1.")]
_TokenFile = Annotated[Path | None, typer.Option(help="A file with the token, instead of RUNCOMFY_API_TOKEN.")]
_Token = Annotated[str | None, typer.Option("--token", envvar="RUNCOMFY_API_TOKEN", hidden=True)]
_RequestId = Annotated[str, typer.Argument(help="The request's id, as submit printed it.")]
_Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where the video goes.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (submit, status, result, cancel, watch):
        app.command()(command)


def submit(
    start: Annotated[str, typer.Option(help="The first frame: a file here, a URL, or a name the server knows.")],
    end: Annotated[str, typer.Option(help="The last frame, likewise.")],
    prompt: Annotated[str, typer.Option(help="What happens in between.")],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter, e.g. 57_steps=12.")
    ] = None,
    model: Annotated[str, typer.Option(help="The model's id.")] = HOSTED.model_id,
    key: Annotated[str | None, typer.Option("--idempotency-key", help="The same key never makes two requests.")] = None,
    webhook: Annotated[str | None, typer.Option(help="An https:// address that is told about the end.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the request and download the video.")] = False,
    output: _Output = None,
    api: _Api = DEFAULT_API,
    token_file: _TokenFile = None,
    token: _Token = None,
) -> None:
    """Submit a request; prints its id, or with --wait the downloaded file."""

    async def go(client: HostedApi) -> str:
        response = await client.submit(model, values, idempotency_key=key, webhook=webhook)
        request_id = str(response["request_id"])
        if not wait:
            return request_id
        say(f"Request {request_id}")
        return str(await _watch(client, request_id, output, download=True))

    try:
        given = {PROMPT.key: prompt, START_IMAGE.key: _image(start), END_IMAGE.key: _image(end)}
        values = _read_values(model, given, assignments or [])
    except (ContractError, ImageError) as error:
        fail(str(error), EXIT_USAGE)
    typer.echo(_call(api, token, token_file, go))


def status(
    request_id: _RequestId, api: _Api = DEFAULT_API, token_file: _TokenFile = None, token: _Token = None
) -> None:
    """Print where a request stands, as JSON."""
    _print(_call(api, token, token_file, lambda client: client.status(request_id)))


def result(
    request_id: _RequestId, api: _Api = DEFAULT_API, token_file: _TokenFile = None, token: _Token = None
) -> None:
    """Print a request's result, as JSON."""
    _print(_call(api, token, token_file, lambda client: client.result(request_id)))


def cancel(
    request_id: _RequestId, api: _Api = DEFAULT_API, token_file: _TokenFile = None, token: _Token = None
) -> None:
    """Cancel a request, waiting or running. Exit code 1 if it had ended."""
    response = _call(api, token, token_file, lambda client: client.cancel(request_id))
    _print(response)
    if response.get("outcome") != "cancelled":
        raise typer.Exit(EXIT_FAILED)


def watch(
    request_id: _RequestId,
    output: _Output = None,
    api: _Api = DEFAULT_API,
    token_file: _TokenFile = None,
    token: _Token = None,
) -> None:
    """Show a request's progress until it has ended; -o downloads the video. Ctrl-C leaves the request alone."""

    async def go(client: HostedApi) -> Path | str:
        return await _watch(client, request_id, output, download=output is not None)

    typer.echo(str(_call(api, token, token_file, go)))


async def _watch(client: HostedApi, request_id: str, output: Path | None, *, download: bool) -> Path | str:
    """Return the downloaded file, or the video's address."""
    try:
        await _show_progress(client, request_id)
    except asyncio.CancelledError:  # Ctrl-C
        say(f"The request {request_id} goes on.", "red")
        raise
    response = await client.result(request_id)
    if response["status"] != "succeeded":
        raise HostedApiError(f"The request {request_id} {response['status']}: {response.get('error') or 'no result'}")
    video = str(response["output"]["video"])
    return await client.download(video, output or Path(f"{request_id}.mp4")) if download else video


async def _show_progress(client: HostedApi, request_id: str) -> None:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task, shown = bar.add_task("Connecting", total=1.0), ""
        async for status in client.watch(request_id):
            text = _describe(status)
            bar.update(task, completed=(status.get("progress") or {}).get("fraction", 0.0), description=text)
            if not err.is_terminal and text != shown:
                say(text)
            shown = text


def _describe(status: dict[str, Any]) -> str:
    """Say in one line where a request is."""
    if status["status"] == "in_queue":
        return status.get("waiting_for") or f"Waiting, {status.get('queue_position', '?')} before it"
    progress = status.get("progress")
    if status["status"] != "in_progress" or not progress:
        return str(status["status"]).replace("_", " ").capitalize()
    node = str(progress["node"] or "Starting")
    return describe_step(node, progress["step"], progress["steps"], progress["eta_seconds"])


def _image(text: str) -> str:
    """Return a file of this machine as a data URI, anything else as it is."""
    path = Path(text)
    if "://" in text or text.startswith("data:") or not path.is_file():
        return text
    check_image(path)
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _read_values(model_id: str, given: dict[str, str], assignments: list[str]) -> dict[str, Value]:
    """Check the values. A model that only the server knows is checked as the hosted one."""
    model = MODELS.get(model_id, HOSTED)
    values, errors = merge_assignments(model, given, assignments)
    if errors:
        raise ContractError(errors)
    checked = validate(model, values)
    return {key: checked[key] for key in values}


def _call(api: str, token: str | None, token_file: Path | None, use: Callable[[HostedApi], Awaitable[_T]]) -> _T:
    """Run one piece of work with a client; an error ends the program with a message."""

    async def go() -> _T:
        async with HostedApi(api, secret) as client:
            return await use(client)

    try:
        secret = token_file.read_text(encoding="utf-8").strip() if token_file is not None else token
        return asyncio.run(go())
    except KeyboardInterrupt:
        fail("Stopped.", EXIT_INTERRUPTED)
    except (ComfyError, OSError) as error:
        fail(str(error), EXIT_FAILED)


def _print(response: dict[str, Any]) -> None:
    typer.echo(json.dumps(response, indent=2, ensure_ascii=False))
