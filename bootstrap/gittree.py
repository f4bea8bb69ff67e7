"""Git's hashes computed without git: they prove that a folder is an upstream commit's tree, byte for byte."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

FILE_MODE = "100644"
EXECUTABLE_MODE = "100755"


class Entry(NamedTuple):
    """One file as git sees it: its mode (``100644`` or ``100755``) and its blob hash (40 hex digits)."""

    mode: str
    blob: str


def blob_hash(data: bytes) -> str:
    """Return the hash ``git hash-object`` gives these bytes."""
    return _object_hash(b"blob", data)


def tree_hash(files: Mapping[str, Entry]) -> str:
    """Return the hash ``git write-tree`` gives these files (path with ``/`` → entry)."""
    here: dict[str, tuple[str, str]] = {}
    below: dict[str, dict[str, Entry]] = {}
    for path, entry in files.items():
        name, slash, rest = path.partition("/")
        if slash:
            below.setdefault(name, {})[rest] = entry
        else:
            here[name] = entry
    # Git sorts a folder as if its name ended in a slash, so that a.b comes before a/ and a/ before a0.
    rows = [(name.encode(), mode, blob) for name, (mode, blob) in here.items()]
    rows += [(name.encode() + b"/", "40000", tree_hash(inner)) for name, inner in below.items()]
    listing = b"".join(
        mode.encode() + b" " + name.removesuffix(b"/") + b"\0" + bytes.fromhex(object_hash)
        for name, mode, object_hash in sorted(rows)
    )
    return _object_hash(b"tree", listing)


def _object_hash(kind: bytes, data: bytes) -> str:
    # Git names objects by SHA-1; the archive's SHA-256 keeps an attacker out.
    digest = hashlib.sha1(kind + b" " + str(len(data)).encode() + b"\0", usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()
