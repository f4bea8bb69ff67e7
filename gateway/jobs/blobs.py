"""The files that the gateways of a fleet share, beside the data folder that each of them has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Blob(NamedTuple):
    """A file of the fleet: its size in bytes, and when it was put there or needed last (seconds since 1970)."""

    size: int
    used_at: float


class Blobs:
    """The files of a fleet, by their path below each gateway's data folder; none without a fleet.

    A gateway's folder has copies of some of them. Every method may raise ``StoreError``; those with ``data``, the data
    folder, ``OSError``. ``name`` never comes from a client.
    """

    async def put(self, data: Path, name: str) -> float | None:
        """Let all gateways have a file of this one, or note that it is needed if they have it already.

        Returns the ``used_at`` of a new one, ``None`` if it was there. It survives a power cut when this returns.
        """
        return None

    async def find(self, data: Path, name: str) -> bool:
        """Return whether a file is in the data folder, or was brought there, whole and as it was put.

        A copy there that is another file than the fleet's is replaced.
        """
        return await asyncio.to_thread((data / name).is_file)

    async def has(self, name: str) -> bool:
        """Return whether the fleet has a file."""
        return False

    async def remove(self, name: str, unused_since: float) -> bool:
        """Remove a file unless it was needed after ``unused_since``; return whether it was removed."""
        return False

    async def listed(self, folder: str) -> dict[str, Blob]:
        """Return the files below a folder, by name."""
        return {}

    async def tidy(self, data: Path, folder: str, needed: Callable[[str], bool], unused_since: float) -> None:
        """Remove what is not ``needed`` of a folder; put what is, if the fleet lacks it or would soon lose it."""

    # Pictures that are only shown: nothing keeps them

    async def show(self, job_id: str, image: bytes) -> bool:
        """Let all gateways have a job's preview, in place of an earlier one; ``False`` without a fleet."""
        return False

    async def hide(self, job_id: str) -> None:
        """Show no preview of a job any more."""

    async def shown(self, job_id: str, known: int) -> tuple[int, bytes] | None:
        """Return the preview that a gateway shows, and its version; ``None`` without one but the ``known``."""
        return None


NO_BLOBS = Blobs()
