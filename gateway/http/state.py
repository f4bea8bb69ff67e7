"""What the routes of one API process share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from ...contract.parameters import ModelContract
from ..fetch import Fetcher
from ..images import Images
from ..jobs.dispatcher import Dispatcher
from ..jobs.records import Job, Token
from ..jobs.results import Results
from ..jobs.store import Store
from ..jobs.tokens import RateLimiter
from ..settings import Settings
from .metrics import Metrics


@dataclass
class State:
    """One process's view: the settings, the store that is the truth, and what is only in memory."""

    settings: Settings
    store: Store
    results: Results
    images: Images
    fetcher: Fetcher
    dispatcher: Dispatcher
    models: dict[str, ModelContract]
    limiter: RateLimiter = field(default_factory=RateLimiter)
    metrics: Metrics = field(default_factory=Metrics)
    streams: dict[str, int] = field(default_factory=dict)  # token id -> open event streams
    large_bodies: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))  # until stored
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


STATE: web.AppKey[State] = web.AppKey("state", State)
_TOKEN = "wan_flf2v_token"  # noqa: S105 -- a key, not a secret


def state_of(request: web.Request) -> State:
    """Return what the routes share."""
    return request.config_dict[STATE]


def token_of(request: web.Request) -> Token:
    """Return the token that a request was made with."""
    token: Token = request[_TOKEN]
    return token


def set_token(request: web.Request, token: Token) -> None:
    """Note the token that a request was made with."""
    request[_TOKEN] = token


def may_see(token: Token, job: Job | None) -> bool:
    """Whether a request exists for this token: it is its own, and its result has not expired."""
    return job is not None and job.token == token.id and not job.expired
