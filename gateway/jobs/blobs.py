"""The files that the gateways of a fleet share, beside the data folder that each of them has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path


class Blobs:
    """The files of a fleet, by their path below each gateway's data folder; none without a fleet.

    A gateway's folder has copies of some of them. Every method may raise ``StoreError``; those with ``data``, the data
    folder, ``OSError``. ``name`` never comes from a client.
    """

    async def put(self, data: Path, name: str) -> float | None:
        """Let all gateways have a file of this one, or note that it is needed if they have it already.

        Returns when a new one was put there (seconds since 1970), ``None`` if the fleet had it. It survives a power cut
        when this returns.
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

    async def remove(self, name: str, unused_since: float) -> None:
        """Remove a file unless it was put there, or needed, after ``unused_since`` (seconds since 1970)."""

    async def listed(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of the files below a folder, by name."""
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
