"""Downloads a model file from the Hugging Face hub: resumed where it stopped, checked, and only then in its place."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..contract.downloads import ModelFile

_CHUNK_BYTES = 16 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")

Tick = Callable[[int], None]  # gets the bytes read so far


class HubError(Exception):
    """A file cannot be had from the hub, or is not what it should be; the text says why and what to do."""


def ask_hub(file: ModelFile) -> ModelFile:
    """Return ``file`` with the size and SHA-256 that the hub has now. Raises ``HubError``.

    The hub says the SHA-256 of its large files as their ETag.
    """
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url  # only this needs it; a check does without

        found = get_hf_file_metadata(hf_hub_url(file.repo, file.path))
    except ImportError as error:
        hint = 'pip install "wan-flf2v[models] @ git+<this repository>"'
        raise HubError(f"Downloads need huggingface_hub, which is not installed ({error}): {hint}") from error
    except Exception as error:  # its HTTP library, and so its errors, change with its version
        raise HubError(
            f"The hub does not give {file.name} ({_line(error)}). Look at your connection, then run this again. "
            f"{file.url} is its address; HF_ENDPOINT names a mirror."
        ) from error
    sha256 = found.etag if _SHA256.fullmatch(found.etag or "") else None
    if file.sha256 and sha256 and sha256 != file.sha256:
        raise HubError(
            f"The hub has another {file.name} than this version of wan-flf2v knows (SHA-256 {sha256}, not "
            f"{file.sha256}). Update wan-flf2v, or download the file yourself."
        )
    return replace(file, size=found.size or file.size, sha256=file.sha256 or sha256)


def unfinished(file: ModelFile, folder: Path) -> int:
    """Return how many bytes of ``file`` an earlier, unfinished download left in ``folder``."""
    partial = _partial(file, folder)
    return partial.stat().st_size if partial.exists() else 0


def download(file: ModelFile, folder: Path, checking: Tick) -> Path:
    """Download ``file``, as ``ask_hub`` returned it, into ``folder`` and return where it is.

    Until its size and SHA-256 are right it has a name that ComfyUI does not list. What an earlier attempt left is not
    downloaded again. Raises ``HubError``.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get  # hf_hub_download deletes what it could not finish

    partial, target = _partial(file, folder), folder / file.name
    had = unfinished(file, folder)
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if had > file.size:  # of an older file of this name
                partial.unlink()
            with partial.open("ab") as stream:
                http_get(
                    hf_hub_url(file.repo, file.path),
                    stream,
                    resume_size=stream.tell(),
                    expected_size=file.size,
                    displayed_filename=file.name,
                )
            break
        except Exception as error:  # see ask_hub; its older versions do not go on by themselves
            has = unfinished(file, folder)
            if has <= had:
                raise HubError(
                    f"{file.name} was not finished ({_line(error)}). What is there is kept: run this again to go on."
                ) from error
            had = has
    if fault := find_fault(file, partial, checking):
        partial.unlink()
        raise HubError(f"{file.name} came damaged: {fault}. It was deleted; run this again.")
    partial.replace(target)
    return target


def find_fault(file: ModelFile, path: Path, checking: Tick) -> str | None:
    """Say what is wrong with a file's size or SHA-256, ``None`` if nothing is. Reads all of it."""
    size = path.stat().st_size
    if size != file.size:
        return f"it has {size:,} bytes, not {file.size:,}"
    if file.sha256 is None:
        return None
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            checking(done)
    return None if digest.hexdigest() == file.sha256 else f"its SHA-256 is {digest.hexdigest()}, not {file.sha256}"


def _partial(file: ModelFile, folder: Path) -> Path:
    return folder / f".{file.name}.part"


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
