"""Webhooks: the messages about a job, their signature, and their retries, by the Standard Webhooks specification.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from yarl import URL

from ..fetch import Fetcher, FetchError
from ..settings import Settings
from .records import Job, Webhook
from .store import Store, StoreError

_LOG = logging.getLogger("wan_flf2v.gateway")
_PREFIX = "whsec_"
_SECRET_BYTES = 32  # the specification asks for 24 to 64
_POLL_S = 1.0
# How many messages are under way at once: in all, of one token, to one host, and of one token to one host. A receiver
# that hangs keeps each for fetch_timeout_s; it must not keep the messages of others waiting.
_AT_ONCE, _OF_TOKEN, _TO_HOST, _OF_TOKEN_TO_HOST = 64, 8, 32, 4
_FIRST_DELAY_S = 5.0
_LONGEST_DELAY_S = 3600.0
_JITTER = 0.2
_GONE = 410  # by the specification: the receiver wants no more messages


def new_secret() -> str:
    """Return a new secret for signatures, in the format of receivers' libraries."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the ``webhook-signature`` header."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def shared_secret(store: Store, data: Path) -> str:
    """Return the secret in ``<data>/webhook.secret``, made on the first start; blocks.

    It signs the messages about requests of the first token in ComfyUI, and of an API without tokens.
    """
    return store.secret(data / "webhook.secret", new_secret().encode()).decode()


class _Slots:
    """Counts the messages under way, those of ``sending`` at first."""

    def __init__(self, sending: Iterable[Webhook]) -> None:
        self._taken: Counter[tuple[str | None, str | None]] = Counter()  # by token and host name; None: any
        for webhook in sending:
            self._taken.update(share for share, _ in _shares(webhook))

    def full(self) -> bool:
        """Whether there is room for no message at all."""
        return self._taken[None, None] >= _AT_ONCE

    def take(self, webhook: Webhook) -> bool:
        """Count a message if there is room in all of its shares; return whether there was."""
        if any(self._taken[share] >= limit for share, limit in _shares(webhook)):
            return False
        self._taken.update(share for share, _ in _shares(webhook))
        return True


def _shares(webhook: Webhook) -> Iterator[tuple[tuple[str | None, str | None], int]]:
    """Yield what a message counts for, by token and host name (``None``: any), and the limit of each."""
    yield (None, None), _AT_ONCE
    yield (webhook.token, None), _OF_TOKEN
    host = URL(webhook.url).host  # not before: of a token with many messages, most get no further
    yield (None, host), _TO_HOST
    yield (webhook.token, host), _OF_TOKEN_TO_HOST


class WebhookSender:
    """Sends the messages that are due. Several processes may send; each message is sent by one of them.

    ``body_of`` makes a message's ``data`` from the job and the address that its links lead to.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        fetcher: Fetcher,
        body_of: Callable[[Job, str | None], Mapping[str, Any]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._fetcher = fetcher
        self._body_of = body_of
        self._common_secret = shared_secret(store, settings.data)

    async def run(self) -> None:
        """Send until cancelled."""
        sending: dict[asyncio.Task[None], Webhook] = {}
        try:
            while True:
                for webhook in await self._due(_Slots(sending.values())):
                    sending[asyncio.create_task(self._send(webhook))] = webhook
                await asyncio.sleep(_POLL_S)
                sending = {task: webhook for task, webhook in sending.items() if not task.done()}
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _due(self, slots: _Slots) -> list[Webhook]:
        if slots.full():
            return []
        # During the lease no other process takes them. It is longer than an attempt.
        lease_s = self._settings.fetch_timeout_s + 30.0
        try:
            return await self._store.due_webhooks(time.time(), lease_s=lease_s, wanted=slots.take)
        except StoreError:
            _LOG.exception("webhooks not read")
            return []

    async def _send(self, webhook: Webhook) -> None:
        try:
            job = await self._store.get(webhook.job_id)
            if job is None or job.expired:
                await self._end(webhook, "expired")
                return
            status, reason = await self._attempt(webhook, job)
            delivered = status is not None and 200 <= status < 300
            if status == _GONE:
                await self._end(webhook, "refused")
            elif webhook.tells != "end":  # sent once: what is told next makes up for it
                await self._store.next_webhook(job.id)
                outcome = "delivered" if delivered else f"given up: {reason}"
                _LOG.info("webhook went on request_id=%s told=%s: %s", job.id, webhook.tells, outcome)
            elif delivered:
                await self._end(webhook, "delivered")
            else:
                await self._retry(webhook, reason)
        except Exception:  # noqa: BLE001 -- the message is due again when its lease ends
            _LOG.exception("webhook not sent request_id=%s", webhook.job_id)

    async def _attempt(self, webhook: Webhook, job: Job) -> tuple[int | None, str]:
        """Send the message once; return the response's status, ``None`` without one, and a reason for the log."""
        message_id, timestamp = f"msg_{job.id}", int(time.time())
        if webhook.tells != "end":  # the job as it was then; it may have gone on
            message_id += f"_{webhook.tells}"
            job = replace(job, status=webhook.tells, finished_at=None)
        data = self._body_of(job, webhook.base_url)
        sent_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(timestamp))
        message = {"type": f"request.{job.status}", "timestamp": sent_at, "data": data}
        body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(webhook.secret or self._common_secret, message_id, timestamp, body),
        }
        try:
            status = await self._fetcher.post(webhook.url, body, headers)
        except FetchError as error:
            return None, str(error)
        return status, f"status {status}"

    async def _retry(self, webhook: Webhook, reason: str) -> None:
        now, last = time.time(), webhook.first_at + self._settings.webhook_retry_s
        if now >= last:
            await self._end(webhook, f"given up: {reason}")
            return
        delay_s = min(_FIRST_DELAY_S * 2**webhook.attempts, _LONGEST_DELAY_S)
        delay_s *= random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 -- against many retries at once
        await self._store.retry_webhook(webhook.job_id, min(now + delay_s, last))
        _LOG.info("webhook put off request_id=%s: %s", webhook.job_id, reason)

    async def _end(self, webhook: Webhook, outcome: str) -> None:
        await self._store.remove_webhook(webhook.job_id)
        _LOG.info("webhook ended request_id=%s: %s", webhook.job_id, outcome)
