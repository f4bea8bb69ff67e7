"""The names of output files, taken by several processes at once."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from wan_flf2v.video.names import numbered, remove_leftovers, reserved, temporary

TAKE = """
import sys
from pathlib import Path
from wan_flf2v.video.names import reserved
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    with reserved(Path(sys.argv[1]), "clip", 1, sys.argv[3]) as path:
        print(path.name)
"""


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_two_processes_never_get_the_same_name(tmp_path, suffix):
    """Both count the files at the same moment, so both begin with 1. Without a suffix it is a folder."""
    command = [sys.executable, "-I", "-c", TAKE, str(tmp_path), "100", suffix]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as other:
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        names = one.stdout.read().split() + other.stdout.read().split()
    assert sorted(names) == [f"clip_{number:05}_{suffix}" for number in range(1, 201)]


def test_a_name_is_given_back_after_an_error_and_kept_otherwise(tmp_path):
    with pytest.raises(KeyError), reserved(tmp_path, "clip", 1, ".mp4"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with reserved(tmp_path, "clip", 1, ".mp4") as first, reserved(tmp_path, "clip", 1, ".mp4") as second:
        assert (first.name, second.name) == ("clip_00001_.mp4", "clip_00002_.mp4")
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_a_name_that_others_may_read_stays_so(tmp_path):
    with reserved(tmp_path, "clip", 1, ".mp4") as path:
        (tmp_path / "other").touch()
        assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_each_path_has_a_temporary_name_no_longer_than_the_shortest_final_one(tmp_path):
    paths = [numbered(tmp_path, "", number, ".mp4") for number in range(100)]
    assert len({temporary(path) for path in paths}) == 100
    assert all(len(temporary(path).name) <= len(path.name) and temporary(path).parent == tmp_path for path in paths)


@pytest.mark.skipif(not hasattr(os, "pathconf"), reason="asks for the longest name as POSIX does")
def test_the_longest_name_of_the_file_system_can_be_written(tmp_path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    with reserved(tmp_path, "x" * (longest - len("_00001_.mp4")), 1, ".mp4") as path:
        assert len(path.name) == longest
        temporary(path).touch()


KILLED = """
import os, signal, sys
from pathlib import Path
from wan_flf2v.video.names import reserved, temporary
folder, notes = map(Path, sys.argv[1:])
with reserved(folder, "done", 1, ".mp4", notes) as path:
    path.write_bytes(b"a video")
with reserved(folder, "clip", 1, ".mp4", notes) as path, reserved(folder, "pngs", 1, "", notes) as pictures:
    temporary(path).write_bytes(b"half a video")
    temporary(pictures).mkdir()
    (temporary(pictures) / "00001.png").write_bytes(b"a picture")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_what_a_killed_process_leaves_is_removed_and_nothing_else(tmp_path):
    folder, notes = tmp_path / "output", tmp_path / "notes"
    folder.mkdir()
    command = [sys.executable, "-I", "-c", KILLED, str(folder), str(notes)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 5
    with reserved(folder, "mine", 1, ".mp4", notes) as mine:  # by a process that runs
        temporary(mine).touch()
        remove_leftovers(notes)
        assert {path.name for path in folder.iterdir()} == {"done_00001_.mp4", mine.name, temporary(mine).name}
        assert len(list(notes.glob("*.json"))) == 1
    assert list(notes.iterdir()) == []


def test_a_container_that_starts_removes_nothing_of_another_one(tmp_path):
    """It does not see the other's process, and may have the same host name."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("NOT RUN: this machine does not let its users start a process that sees no other")
    start = "import sys, pathlib, wan_flf2v.video.names as names; names.remove_leftovers(pathlib.Path(sys.argv[1]))"
    with reserved(tmp_path, "clip", 1, ".mp4", tmp_path / "notes") as path:
        temporary(path).write_bytes(b"half a video")
        subprocess.run([*unshare, sys.executable, "-I", "-c", start, str(tmp_path / "notes")], check=True)
        assert path.exists()
        assert temporary(path).exists()


def test_a_broken_note_is_forgotten(tmp_path):
    (tmp_path / "a.json").write_text('{"path": "/', encoding="utf-8")
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


BEATEN = """
import os, signal, sys
from pathlib import Path
from wan_flf2v.video.names import reserved
Path.touch = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with reserved(Path(sys.argv[1]), "clip", 1, ".mp4", Path(sys.argv[2])):
    pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_a_process_killed_before_it_saw_that_a_name_is_taken_harms_none(tmp_path):
    folder, notes = tmp_path / "output", tmp_path / "notes"
    folder.mkdir()
    with reserved(folder, "clip", 1, ".mp4", notes) as mine:
        temporary(mine).write_bytes(b"half a video")
        command = [sys.executable, "-I", "-c", BEATEN, str(folder), str(notes)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert len(list(notes.glob("*.json"))) == 2
        remove_leftovers(notes)
        assert sorted(folder.iterdir()) == sorted([mine, temporary(mine)])
    remove_leftovers(notes)
    assert list(notes.iterdir()) == []


@pytest.mark.parametrize(("hours", "is_left"), [(1, True), (25, False)])
def test_what_another_machine_left_is_removed_when_nobody_wrote_to_it_for_a_day(tmp_path, monkeypatch, hours, is_left):
    """A container that is started again has another name."""
    before = time.time() - hours * 3600
    with monkeypatch.context() as patched:
        patched.setattr("platform.node", lambda: "another")
        with contextlib.ExitStack() as killed:
            path = killed.enter_context(reserved(tmp_path, "clip", 1, ".mp4", tmp_path / "notes"))
            temporary(path).write_bytes(b"half a video")
            (note,) = (tmp_path / "notes").glob("*.json")
            kept = note.read_bytes()
        note.write_bytes(kept)
    for file in (note, temporary(path)):
        os.utime(file, (before, before))
    remove_leftovers(tmp_path / "notes")
    assert [file.exists() for file in (note, temporary(path), path)] == [is_left] * 3
