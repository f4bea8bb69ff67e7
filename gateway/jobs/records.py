"""What the store keeps, as its readers see it. Times are Unix seconds."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from ...contract.parameters import Value

Status = Literal["in_queue", "in_progress", "succeeded", "failed", "cancelled"]
CancelOutcome = Literal["cancelled", "cancelling", "finished"]
REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DISPATCHER_DOWN = "down: the API's dispatcher ended unexpectedly; it starts again soon. The API's log says more."


class QueueFullError(Exception):
    """The token has as many requests waiting as it may have."""


class IdempotencyConflictError(Exception):
    """The token used this idempotency key before, for another body."""


@dataclass(frozen=True)
class Job:
    """One request.

    ``token`` is the id of the token it was made with. ``values`` is the request, validated and complete. ``inputs``
    maps an image parameter's key to the name of the file below ``<data>/inputs/`` that is put into ComfyUI for the run;
    an image parameter that is not in it names a file that ComfyUI's input folder has. Of the present attempt, ``host``
    is the ComfyUI process that it is for (``None`` if that does not tell) and ``submitted`` says that it took the
    prompt. ``on_host`` says that something may be left there: the prompt, images. ``version`` grows with every change,
    ``expired`` says that the result is gone. ``output`` maps ``video`` and ``image`` to file names in
    ``<data>/results/<id>/``. ``detail`` holds what the result tells besides: timings, warnings, host version.
    """

    id: str
    position_key: int
    token: str
    model_id: str
    values: dict[str, Value]
    inputs: dict[str, str]
    status: Status
    cancel_requested: bool
    submitted: bool
    host: str | None
    on_host: bool
    error: str | None
    output: dict[str, str] | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    host_deaths: int
    progress: dict[str, Any] | None
    detail: dict[str, Any]
    version: int
    expired: bool

    @property
    def finished(self) -> bool:
        """Whether the request has reached its end."""
        return self.status not in ("in_queue", "in_progress")


@dataclass(frozen=True)
class Token:
    """A bearer token: its name and the hash of its text. ``None`` limits are those of the settings.

    What was made with it belongs to its ``id``: a later token of the same name has another one.
    """

    name: str
    hash: str
    created_at: float
    webhook_secret: str | None
    rate_per_minute: int | None
    queue_limit: int | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class StoredFile:
    """An image uploaded with the token whose id is ``token``; ``stored`` is its name below ``<data>/inputs/``."""

    id: str
    token: str
    name: str
    stored: str
    content_type: str
    size: int
    created_at: float


@dataclass(frozen=True)
class Webhook:
    """A message that a finished request still owes; ``first_at`` is when it became due the first time.

    ``secret`` signs it (``None``: the server's own does), ``base_url`` is where its links lead, both as they were when
    the request was made.
    """

    job_id: str
    url: str
    secret: str | None
    base_url: str | None
    attempts: int
    first_at: float
