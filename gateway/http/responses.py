"""The JSON body of each response, as pydantic models: the routes send them and the OpenAPI document describes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from ...contract.parameters import ModelContract, seed_in
from ..jobs.records import Health, Job, Status

StatusWord = Literal["in_queue", "in_progress", "completed", "cancelled"]
_STATUS_WORDS: dict[Status, StatusWord] = {
    "in_queue": "in_queue",
    "in_progress": "in_progress",
    "succeeded": "completed",
    "failed": "completed",
    "cancelled": "cancelled",
}


_EVENTS_URL = "The event stream, signed: it needs no token, so that an EventSource can open it. Keep it secret."


class ErrorResponse(BaseModel):
    """The body of every error."""

    error_code: int = Field(description="The HTTP status in its first three digits; 400004 comes with 401.")
    error_message: str
    detail: Any = Field(description="For 422001 a list with `loc`, `msg` and `type` of every bad field.")


class SubmitResponse(BaseModel):
    """The request was accepted and survives a crash."""

    request_id: str
    status_url: str
    result_url: str
    cancel_url: str
    events_url: str = Field(description=_EVENTS_URL)


class Progress(BaseModel):
    """The progress of a running request."""

    fraction: float = Field(ge=0, le=1)
    step: int = Field(description="Of `steps`, inside the node; 0 of 0 if the node does not count.")
    steps: int
    node: str = Field(description="The title of the node that runs.")
    eta_seconds: float | None


class StatusResponse(BaseModel):
    """The status of a request. A failed one is `completed` here and `failed` in the result."""

    request_id: str
    status: StatusWord
    queue_position: int | None = Field(default=None, description="Only while in_queue; 0 is the next.")
    status_url: str
    result_url: str
    events_url: str | None = Field(default=None, description=f"{_EVENTS_URL} Not in the events themselves.")
    progress: Progress | None = None
    waiting_for: str | None = Field(default=None, description="What is down, so that nothing can run.")


class Output(BaseModel):
    """Signed links to the files; anyone who has a link can download the file until the link expires."""

    image: str = Field(description="The video's first frame; or the image itself, if the model makes one.")
    video: str | None = None
    images: list[str]
    videos: list[str] | None = None


class ResultResponse(BaseModel):
    """A request's result, or its present state."""

    request_id: str
    status: Status
    output: Output | None = Field(default=None, description="Only when succeeded.")
    created_at: str
    finished_at: str | None
    error: str | None = Field(default=None, description="Only when failed.")
    seed: int | None = None
    timings: dict[str, Any] | None = None
    warnings: list[Any] | None = None
    host_version: str | None = None


class ListedRequest(BaseModel):
    """A request in a list; `status` is the same as in the result call."""

    request_id: str
    model_id: str
    status: Status
    created_at: str
    finished_at: str | None
    input: dict[str, Any] = Field(description="What was asked for, without the images.")


class RequestListResponse(BaseModel):
    """Requests of the token, newest first. There can be fewer than `limit` though more follow."""

    requests: list[ListedRequest]
    next_cursor: str | None = Field(description="The `cursor` of the next call; null if nothing follows.")


class CancelResponse(BaseModel):
    """The outcome of a cancellation; `status` is the same as in the status call."""

    request_id: str
    status: StatusWord
    outcome: Literal["cancelled", "not_cancellable"]


class ModelResponse(BaseModel):
    """A model, with the schemas as the hosted page prints them; the OpenAPI document has them as real JSON Schema."""

    model_id: str
    display_name: str
    description: str
    categories: list[str]
    kind: str
    available: bool = Field(description="False if ComfyUI lacks what the model needs: a submit would be refused.")
    reason: str | None = Field(default=None, description="Only when not available: what ComfyUI lacks.")
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None


class ModelListResponse(BaseModel):
    """The models that match, and how many there are in all."""

    models: list[ModelResponse]
    total: int


class CategoryListResponse(BaseModel):
    """The categories of the models."""

    categories: list[str]


class UploadResponse(BaseModel):
    """An uploaded image; its id is what image parameters take."""

    id: str
    name: str
    content_type: str
    size: int
    created_at: str


def json_response(body: BaseModel, status: int = 200) -> web.Response:
    """Return a response with a JSON body, without the members that were not set."""
    return web.Response(
        text=body.model_dump_json(exclude_unset=True),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def status_word(job: Job) -> StatusWord:
    """Return the status in the words of the status call."""
    return _STATUS_WORDS[job.status]


def urls(base: str, job_id: str) -> dict[str, str]:
    """Return the addresses of the three calls about a request."""
    root = f"{base}/v1/requests/{job_id}"
    return {"status_url": f"{root}/status", "result_url": f"{root}/result", "cancel_url": f"{root}/cancel"}


def timestamp(seconds: float) -> str:
    """Return a time as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def submit_response(job_id: str, base: str, events_url: str) -> SubmitResponse:
    """Return the body of an accepted request."""
    return SubmitResponse(request_id=job_id, **urls(base, job_id), events_url=events_url)


def status_response(
    job: Job, base: str, position: int | None, health: Health, *, events_url: str | None = None
) -> StatusResponse:
    """Return the body of the status call; ``position`` is the place in the queue while there is one."""
    links = urls(base, job.id)
    optional: dict[str, Any] = {} if events_url is None else {"events_url": events_url}
    if job.status == "in_queue":
        optional["queue_position"] = position
        if health.dispatcher == "down":
            optional["waiting_for"] = "The API's dispatcher, which failed and tries again soon."
        elif health.comfyui == "down":
            optional["waiting_for"] = "ComfyUI, which does not respond at the moment."  # its address is not for clients
    if job.status == "in_progress" and job.progress is not None:
        optional["progress"] = Progress.model_validate(job.progress)
    return StatusResponse(
        request_id=job.id,
        status=status_word(job),
        status_url=links["status_url"],
        result_url=links["result_url"],
        **optional,
    )


def result_response(job: Job, output: dict[str, Any] | None) -> ResultResponse:
    """Return the body of the result call; ``output`` is that of a request that succeeded."""
    optional: dict[str, Any] = {}
    if output is not None:
        optional["output"] = Output.model_validate(output)
    if job.status == "failed":
        optional["error"] = job.error or "unknown"
    if job.finished:
        optional |= {name: job.detail[name] for name in ("timings", "warnings", "host_version") if name in job.detail}
        optional["seed"] = seed_in(job.values)
    return ResultResponse(
        request_id=job.id,
        status=job.status,
        created_at=timestamp(job.created_at),
        finished_at=timestamp(job.finished_at) if job.finished_at is not None else None,
        **optional,
    )


def list_response(jobs: list[Job], models: Mapping[str, ModelContract], next_cursor: str | None) -> RequestListResponse:
    """Return the body of a list of requests. Of a model that is gone, images by name alone count as texts."""
    requests = [
        ListedRequest(
            request_id=job.id,
            model_id=job.model_id,
            status=job.status,
            created_at=timestamp(job.created_at),
            finished_at=timestamp(job.finished_at) if job.finished_at is not None else None,
            input={
                key: value
                for key, value in job.values.items()
                if key not in job.inputs and not _is_image(models.get(job.model_id), key)
            },
        )
        for job in jobs
    ]
    return RequestListResponse(requests=requests, next_cursor=next_cursor)


def _is_image(model: ModelContract | None, key: str) -> bool:
    return model is not None and any(item.key == key and item.is_image for item in model.parameters)
