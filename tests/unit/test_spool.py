"""The store of frames that wait: their bits, where they lie, what is left, and a disk that is full."""

import errno
import subprocess
import sys
import textwrap

import pytest
import torch
from wan_flf2v.video.spool import FrameSpool

WHO = ("color_match", "disconnect color_match")
FRAME = torch.arange(3 * 6 * 8, dtype=torch.uint8).reshape(3, 6, 8)


@pytest.mark.parametrize("limit", [0, 1, 3 * 144, 10**6])
def test_frames_come_back_bit_for_bit(tmp_path, limit):
    """In memory, in the file, and at the limit; 0 is no limit."""
    with FrameSpool(tmp_path, 5, *WHO, limit_bytes=limit) as spool:
        for i in range(5):
            spool.put((FRAME + i)[:, :, ::2])  # a view, not contiguous
        assert all(torch.equal(frame, (FRAME + i)[:, :, ::2]) for i, frame in enumerate(spool))
    assert list(tmp_path.iterdir()) == []


def test_memory_is_limited_by_the_file(tmp_path):
    with FrameSpool(tmp_path, 9, *WHO, limit_bytes=300) as spool:
        spool.put(FRAME)
        assert not spool._file._rolled
        for _ in range(8):
            spool.put(FRAME)
        assert spool._file._rolled
        assert spool._file.tell() == 9 * 144


@pytest.mark.skipif(sys.platform == "win32", reason="files of a limited size are made another way on Windows")
def test_a_full_disk_says_what_to_do(tmp_path):
    """In another process, whose files cannot grow beyond 1000 bytes."""
    code = """
        import resource, signal, sys, torch
        from pathlib import Path
        from wan_flf2v.video.spool import FrameSpool
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            with FrameSpool(Path(sys.argv[1]), 9, "color_match", "disconnect color_match", limit_bytes=1) as spool:
                for _ in range(9):
                    spool.put(torch.zeros(3, 64, 64, dtype=torch.uint8))
                list(spool)
        except OSError as error:
            print(error.errno, error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True, check=True
    )
    number, _, message = done.stdout.partition(" ")
    assert int(number) == errno.EFBIG
    assert f"color_match keeps the decoded frames in {tmp_path} until the last one is known, but " in message
    assert "They need 1 MB there. Free disk space" in message
    assert list(tmp_path.iterdir()) == []


def test_frames_come_back_in_any_order_and_keep_their_type(tmp_path):
    with FrameSpool(tmp_path, 3, *WHO, limit_bytes=1) as spool:
        for i in range(3):
            spool.put(FRAME.float() + i / 7)
        for index in (2, 0, 1, 2):
            assert torch.equal(spool[index], FRAME.float() + index / 7)
        with pytest.raises(IndexError):
            spool[3]


def test_the_room_is_looked_at_before_the_first_frame_is_kept(tmp_path):
    """More than any disk holds."""
    with FrameSpool(tmp_path, 10**15, "ping_pong", "turn ping_pong off", limit_bytes=1) as spool:
        with pytest.raises(OSError, match=r"ping_pong keeps the decoded frames in .* or turn ping_pong off") as error:
            spool.put(FRAME)
        assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
