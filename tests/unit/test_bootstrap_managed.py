"""The proof of the managed ComfyUI: git's hashes without git, safe unpacking, verification that names the file."""

import hashlib
import io
import os
import subprocess
import tarfile

import pytest
from wan_flf2v.bootstrap.comfyui import PINS, Pin
from wan_flf2v.bootstrap.console import SetupError
from wan_flf2v.bootstrap.gittree import EXECUTABLE_MODE, FILE_MODE, Entry, blob_hash, tree_hash
from wan_flf2v.bootstrap.managed import TREE, ensure_managed, unpack, verify

# a.b and a0 sort around the folder a/ only if the folder counts as "a/"; names beyond ASCII sort by their bytes
FILES = {
    "a/deep/er/file.txt": (b"deep\n", False),
    "a/x": (b"", False),
    "a.b": (b"before a/\n", False),
    "a0": (b"after a/\n", False),
    "a-": (b"-\n", False),
    "run.sh": (b"#!/bin/sh\r\n", True),
    "ünï/ß": (b"\xff\x00binary", False),
    "main.py": (b"print('hello')\n", False),
    "comfyui_version.py": (b'__version__ = "9.9.9"\n', False),
}
ENTRIES = {
    path: Entry(EXECUTABLE_MODE if executable else FILE_MODE, blob_hash(data))
    for path, (data, executable) in FILES.items()
}
NAME = "fake-1.0"


def write_archive(path, members):
    """Write a .tar.gz of (name, data, mode, type) rows and return a pin of it that expects ENTRIES' tree."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data, mode, kind in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.type, member.linkname = len(data), mode, kind, "main.py"
            tar.addfile(member, io.BytesIO(data))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Pin("9.9.9", "fake", "1.0", f"{NAME}.tar.gz", sha256, None, tree_hash(ENTRIES))


def rows(extra=()):
    rows = [
        (f"{NAME}/vendor/ComfyUI/{path}", data, 0o755 if executable else 0o644, tarfile.REGTYPE)
        for path, (data, executable) in FILES.items()
    ]
    return [(f"{NAME}/setup.py", b"not wanted", 0o644, tarfile.REGTYPE), *rows, *extra]


@pytest.fixture
def archive(tmp_path):
    return tmp_path / f"{NAME}.tar.gz"


@pytest.fixture
def copy(tmp_path, archive):
    pin = write_archive(archive, rows())
    unpack(archive, pin, tmp_path / "copy")
    return tmp_path / "copy", pin


def test_tree_hash_is_what_git_computes(tmp_path):
    git = ["git", "-c", "core.autocrlf=false", "-c", "core.fileMode=true", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    for path, (data, executable) in FILES.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        subprocess.run([*git, "add", path], check=True)
        mode = "+x" if executable else "-x"
        subprocess.run([*git, "update-index", f"--chmod={mode}", path], check=True)
    written = subprocess.run([*git, "write-tree"], check=True, capture_output=True, text=True).stdout.strip()
    assert tree_hash(ENTRIES) == written


def test_only_comfyui_is_unpacked_and_then_verifies(copy):
    folder, pin = copy
    verify(folder, pin)
    found = {path.relative_to(folder / TREE).as_posix() for path in (folder / TREE).rglob("*") if path.is_file()}
    assert found == set(FILES)
    assert (folder / TREE / "ünï/ß").read_bytes() == b"\xff\x00binary"
    if os.name == "posix":
        assert os.access(folder / TREE / "run.sh", os.X_OK)


def test_bytecode_caches_do_not_count(copy):
    folder, pin = copy
    (folder / TREE / "a" / "__pycache__").mkdir()
    (folder / TREE / "a" / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"cache")
    verify(folder, pin)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda tree: (tree / "a" / "x").write_bytes(b"\n"), "x was changed"),
        (lambda tree: (tree / "a" / "deep" / "er" / "file.txt").unlink(), "file.txt is missing"),
        (lambda tree: (tree / "a" / "evil.py").touch(), "evil.py does not belong to it"),
        (lambda tree: (tree.parent / "manifest.json").write_text("{}"), "manifest.json is not the list of its files"),
        (lambda tree: (tree.parent / "manifest.json").unlink(), "manifest.json is not the list of its files"),
    ],
)
def test_a_copy_that_differs_is_refused_by_name(copy, change, finding):
    folder, pin = copy
    change(folder / TREE)
    with pytest.raises(SetupError, match=r"(?s)9\.9\.9.*" + finding.replace(".", r"\.") + r".*Delete .*copy"):
        verify(folder, pin)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a privilege on Windows")
def test_a_linked_folder_does_not_hide_files(copy, tmp_path):
    folder, pin = copy
    (tmp_path / "elsewhere").mkdir()
    (folder / TREE / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError, match="linked does not belong to it"):
        verify(folder, pin)


@pytest.mark.parametrize(
    "name", ["../../../escaped", "a/../../../../escaped", "/escaped", "a//b", "..\\escaped", "C:escaped", "a/./b"]
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, archive, name):
    pin = write_archive(archive, rows([(f"{NAME}/vendor/ComfyUI/{name}", b"!", 0o644, tarfile.REGTYPE)]))
    with pytest.raises(SetupError, match="no regular file inside ComfyUI: nothing is unpacked"):
        unpack(archive, pin, tmp_path / "deep" / "copy")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_what_is_no_regular_file_is_refused(tmp_path, archive, kind):
    pin = write_archive(archive, rows([(f"{NAME}/vendor/ComfyUI/odd", b"", 0o644, kind)]))
    with pytest.raises(SetupError, match="odd"):
        unpack(archive, pin, tmp_path / "copy")


def test_an_archive_with_another_sha256_is_refused_by_name(tmp_path, archive):
    pin = write_archive(archive, rows())
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(SetupError, match=rf"{NAME}\.tar\.gz is not the pinned file.*expected {pin.sha256}"):
        unpack(archive, pin, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_tree_that_is_not_the_commits_is_refused(tmp_path, archive):
    extra = (f"{NAME}/vendor/ComfyUI/extra.py", b"", 0o644, tarfile.REGTYPE)
    pin = write_archive(archive, rows([extra]))
    with pytest.raises(SetupError, match=rf"does not hold ComfyUI 9\.9\.9: git tree .* expected {pin.tree}"):
        unpack(archive, pin, tmp_path / "copy")


def test_a_copy_in_place_is_used_only_if_it_verifies(copy, tmp_path):
    folder, pin = copy
    shelf = tmp_path / "cache" / "comfyui"
    shelf.mkdir(parents=True)
    folder.rename(shelf / pin.version)
    host = ensure_managed(pin, tmp_path / "cache")
    assert host.managed and host.path == shelf / pin.version / TREE and host.version == "9.9.9"
    (host.path / "main.py").write_bytes(b"print('changed')\n")
    with pytest.raises(SetupError, match=r"main\.py was changed"):
        ensure_managed(pin, tmp_path / "cache")


def test_pins_are_complete():
    assert {"0.30.0", "0.18.2"} <= PINS.keys()
    for version, pin in PINS.items():
        assert version == pin.version
        assert len(pin.sha256) == 64 and len(pin.tree) == 40
        assert pin.commit is None or len(pin.commit) == 40
        assert pin.commit or pin.note, "a pin without a commit says why"
    assert PINS["0.30.0"].commit == "14b05228cef127ce529bc0c08660770d4af3e9a8"
