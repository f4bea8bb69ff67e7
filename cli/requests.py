"""``wan-flf2v submit``, ``status``, ``result``, ``cancel`` and ``watch``: requests to a hosted API."""

from __future__ import annotations

import asyncio
import base64
import json
import mimetypes
import os
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import typer

from ..client.errors import ComfyError, HostedApiError, ServerAddressError
from ..client.hosted_api import HostedApi
from ..client.images import ImageError, check_image
from ..contract.parameters import END_IMAGE, HOSTED, MODELS, PROMPT, START_IMAGE, ModelContract, Value
from ..contract.validation import ContractError, validate
from .progress_bar import ProgressRenderer
from .shared import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    UsageError,
    check_output,
    describe_step,
    err,
    fail,
    merge_assignments,
    say,
)

DEFAULT_API = HostedApi.example  # where `wan-flf2v serve` is
_API_VARIABLE, _TOKEN_VARIABLE = "RUNCOMFY_MODEL_API_BASE", "RUNCOMFY_API_TOKEN"
_T = TypeVar("_T")

_Api = Annotated[str, typer.Option("--api", envvar=_API_VARIABLE, help="The API's address, with /v1.")]
_TokenFile = Annotated[Path | None, typer.Option(help=f"A file with the token, instead of {_TOKEN_VARIABLE}.")]
_Token = Annotated[str | None, typer.Option("--token", envvar=_TOKEN_VARIABLE, hidden=True)]
_RequestId = Annotated[str, typer.Argument(help="The request's id, as submit printed it.")]
_Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where the video, or the image, goes.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (submit, status, result, cancel, watch):
        app.command()(command)


def submit(
    start: Annotated[
        str | None, typer.Option(help="The first frame: a file here, a URL, or a name the server knows.")
    ] = None,
    end: Annotated[str | None, typer.Option(help="The last frame, likewise.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What happens in between.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A parameter, e.g. 57_steps=12; of an image, what --start takes."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="The model's id. The API says what others take.")] = HOSTED.model_id,
    key: Annotated[str | None, typer.Option("--idempotency-key", help="The same key never makes two requests.")] = None,
    webhook: Annotated[str | None, typer.Option(help="An https:// address that is told about the end.")] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Watch the request and download the result, by default into a file named by its id."
        ),
    ] = False,
    output: _Output = None,
    api: _Api = DEFAULT_API,
    token_file: _TokenFile = None,
    token: _Token = None,
) -> None:
    """Submit a request; prints its id, or with --wait the downloaded file. Exit code 1 if it does not succeed."""

    async def go(client: HostedApi) -> str:
        contract = MODELS.get(model) or await client.contract(model)
        values = _read_values(contract, given, assignments or [])
        response = await client.submit(model, values, idempotency_key=key, webhook=webhook)
        request_id = str(response["request_id"])
        if not wait:
            return request_id
        say(f"Request {request_id}")
        again = _watch_command(request_id, output, api, token_file)
        return str(await _watch(client, request_id, lambda url: output or _named(request_id, url), again))

    try:
        check_output(output)
        options = {PROMPT.key: prompt, START_IMAGE.key: start, END_IMAGE.key: end}
        given = {key: text for key, text in options.items() if text is not None}
    except UsageError as error:
        fail(str(error), EXIT_USAGE)
    typer.echo(_call(api, token, token_file, go))


def status(
    request_id: _RequestId, api: _Api = DEFAULT_API, token_file: _TokenFile = None, token: _Token = None
) -> None:
    """Print where a request stands, as JSON. Exit code 1 if it failed or was cancelled."""

    async def go(client: HostedApi) -> dict[str, Any]:
        response = await client.status(request_id)
        if response["status"] != "completed":
            return response
        ended = await client.result(request_id)  # which alone tells failed from succeeded
        if ended["status"] == "succeeded":
            return response
        return {**response, **{name: ended[name] for name in ("status", "error") if name in ended}}

    response = _call(api, token, token_file, go)
    _print(response)
    if response["status"] in ("failed", "cancelled"):
        raise typer.Exit(EXIT_FAILED)


def result(
    request_id: _RequestId, api: _Api = DEFAULT_API, token_file: _TokenFile = None, token: _Token = None
) -> None:
    """Print a request's result, as JSON. Exit code 1 if there is none: unfinished, failed or cancelled."""
    response = _call(api, token, token_file, lambda client: client.result(request_id))
    _print(response)
    if response["status"] != "succeeded":
        fail(_no_result(request_id, response), EXIT_FAILED)


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
    """Show a request's progress until it has ended; -o downloads the result. Ctrl-C leaves the request alone."""
    try:
        check_output(output)
    except UsageError as error:
        fail(str(error), EXIT_USAGE)
    again = _watch_command(request_id, output, api, token_file)
    typer.echo(str(_call(api, token, token_file, lambda client: _watch(client, request_id, lambda _: output, again))))


def _watch_command(request_id: str, output: Path | None, api: str, token_file: Path | None) -> str:
    """Return the command line that watches a request as this one does; a token is not in it."""
    command = ["wan-flf2v", "watch", request_id, *(() if output is None else ("-o", str(output)))]
    if api != os.environ.get(_API_VARIABLE, DEFAULT_API):
        command += ["--api", api]
    if token_file is not None:
        command += ["--token-file", str(token_file)]
    return shlex.join(command)


async def _watch(client: HostedApi, request_id: str, name: Callable[[str], Path | None], again: str) -> Path | str:
    """Download the result into the file that ``name`` makes of its address, if any, and return it, else the address.

    Ctrl-C shows ``again``.
    """
    state = "goes on"
    try:
        await _show_progress(client, request_id)
        state = "has ended"
        response = await client.result(request_id)
        if response["status"] != "succeeded":
            raise HostedApiError(_no_result(request_id, response))
        made = response["output"]
        url = str(made["video"] if "video" in made else made["image"])  # a video has an image too: its first frame
        output = name(url)
        return url if output is None else await client.download(url, output)
    except asyncio.CancelledError:  # Ctrl-C
        say(f"The request {request_id} {state}. To watch it again: {again}", "red")
        raise


def _named(request_id: str, url: str) -> Path:
    """Return the request's id with the suffix of the result's own name."""
    return Path(f"{request_id}{PurePosixPath(urlsplit(url).path).suffix}")


def _no_result(request_id: str, response: dict[str, Any]) -> str:
    """Say why a request has no result."""
    if response["status"] == "failed":
        return f"The request {request_id} failed: {response.get('error') or 'the API gives no reason'}"
    if response["status"] == "cancelled":
        return f"The request {request_id} was cancelled."
    return f"The request {request_id} has not ended yet. `wan-flf2v watch {request_id}` waits for it."


async def _show_progress(client: HostedApi, request_id: str) -> None:
    """Show where the request is until it has ended; how it ended, only its result knows."""
    with ProgressRenderer(err) as renderer:
        async for status in client.watch(request_id):
            if status["status"] == "in_queue":
                text = status.get("waiting_for") or f"Waiting, {status.get('queue_position', '?')} before it"
                renderer.show(text, 0.0, text)
            elif status["status"] == "in_progress":
                progress = status.get("progress") or {}
                fraction = progress.get("fraction", 0.0)
                node = str(progress.get("node") or ("Fetching the result" if fraction >= 1 else "Starting"))
                step, steps = progress.get("step", 0), progress.get("steps", 0)
                renderer.show(node, fraction, describe_step(node, step, steps, progress.get("eta_seconds")))


def _image(text: str) -> str:
    """Return a file of this machine as a data URI, anything else as it is."""
    path = Path(text)
    if "://" in text or text.startswith("data:") or not path.is_file():
        return text
    check_image(path)
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _read_values(model: ModelContract, given: dict[str, str], assignments: list[str]) -> dict[str, Value]:
    """Check the values, and read the images that are files here."""
    values, errors = merge_assignments(model, given, assignments)
    if errors:
        raise ContractError(errors)
    checked = validate(model, values)
    return {key: _image(str(checked[key])) if model.parameter(key).is_image else checked[key] for key in values}


def _call(api: str, token: str | None, token_file: Path | None, use: Callable[[HostedApi], Awaitable[_T]]) -> _T:
    """Run one piece of work with a client; an error ends the program with a message."""

    async def go() -> _T:
        async with HostedApi(api, secret) as client:
            return await use(client)

    secret = None
    try:
        secret = _read_token(token, token_file)
        return asyncio.run(go())
    except KeyboardInterrupt:
        fail("Stopped.", EXIT_INTERRUPTED)
    except (ContractError, ImageError, UsageError, ServerAddressError) as error:
        fail(str(error), EXIT_USAGE)
    except HostedApiError as error:
        hint = ""
        if error.status == 401 and secret is None:
            hint = f"\nNo token was given: put it into {_TOKEN_VARIABLE}, or its file's name behind --token-file."
        elif error.status == 401:
            hint = f"\nThe token came from {_TOKEN_VARIABLE if token_file is None else f'--token-file {token_file}'}."
        fail(f"{error}{hint}", EXIT_FAILED)
    except (ComfyError, OSError) as error:
        fail(str(error), EXIT_FAILED)


def _read_token(token: str | None, token_file: Path | None) -> str | None:
    """Return the token to send; ``UsageError`` if what was given cannot be one."""
    if token_file is None:
        text, source = token, _TOKEN_VARIABLE
    else:
        source = f"--token-file {token_file}"
        try:
            text = token_file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UsageError(f"{source}: the file cannot be read ({error.strerror}).") from error
    if text is None:
        return None
    text = text.strip()
    if not (text.isascii() and text.isprintable()) or " " in text or not text:
        raise UsageError(f"{source} holds no token: one word of ASCII characters is expected.")
    return text


def _print(response: dict[str, Any]) -> None:
    typer.echo(json.dumps(response, indent=2, ensure_ascii=False))
