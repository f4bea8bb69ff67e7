"""What became of a request that was running when this process, or ComfyUI, ended."""

from __future__ import annotations

import asyncio
from typing import Literal

from .comfyui import Host, Identity
from .records import Job

# A killed gateway's last POST may still be on its way to ComfyUI, whose event loop can stall while a model loads.
_LATE_POST_S = 1.0

Found = Literal["known", "file", "host_died", "removed", "never_sent"]


async def find(host: Host, identity: Identity, job: Job) -> Found:
    """Look for a running request: in ComfyUI's queue, its history, its output folder by name, in this order.

    ``known``: it waits, runs or has ended there. ``file``: only its finished file is left. Otherwise nothing is left,
    because its ComfyUI ended (``host_died``), someone removed it (``removed``), or it never got there
    (``never_sent``). Only then may it be queued again: ComfyUI would take the same prompt id twice.
    """
    found = await _look(host, job.id)
    if found is None and not _is_gone(job, identity) and not job.sent:
        await asyncio.sleep(_LATE_POST_S)
        found = await _look(host, job.id)
    if found is not None:
        return found
    if _is_gone(job, identity):
        return "host_died"
    return "removed" if job.sent else "never_sent"


async def _look(host: Host, job_id: str) -> Found | None:
    if await host.knows(job_id):
        return "known"
    return "file" if await host.has_result(job_id) else None


def _is_gone(job: Job, identity: Identity) -> bool:
    """Whether the ComfyUI process that the request was for has ended; without names for processes, assume it."""
    if job.worker is None or identity.instance is None:
        return job.sent
    return job.worker != identity.instance
