"""The encoder and its thread: the frames, the errors, and what an interrupt leaves behind."""

import subprocess
import sys
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from support.video_graphs import read_planes
from wan_flf2v.video.encoder_thread import EncoderThread
from wan_flf2v.video.pictures import to_planar_bytes
from wan_flf2v.video.settings import Settings
from wan_flf2v.video.stream_writer import StreamWriter

SIZE = (48, 32)


class InterruptedRunError(Exception):
    pass


def frame(value=100):
    return torch.full((3, SIZE[1], SIZE[0]), value, dtype=torch.uint8)


def writer(folder, crf=19, size=SIZE):
    return StreamWriter(folder / "clip.mp4", *size, Settings(Fraction(16), crf=crf))


def nothing():
    pass


def bt709(rgb):
    """Return limited-range Y'CbCr of R'G'B' in 0...255, by ITU-R BT.709's own coefficients."""
    red, green, blue = (rgb[..., i].astype(float) for i in range(3))
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 16 + luma * 219 / 255, 128 + (blue - luma) / 1.8556 * 224 / 255, 128 + (red - luma) / 1.5748 * 224 / 255


def halved(plane):
    return plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).mean(axis=(1, 3))


def test_frames_arrive_in_order_and_the_file_appears_when_whole(tmp_path):
    with writer(tmp_path, crf=0) as file, EncoderThread(file, nothing) as encoder:
        for value in range(0, 200, 10):
            encoder.put(frame(value))
            assert not (tmp_path / "clip.mp4").exists()
    with av.open(str(tmp_path / "clip.mp4")) as container:
        luma = [np.frombuffer(picture.planes[0], np.uint8)[0] for picture in container.decode(video=0)]
    assert luma == [round(16 + value * 219 / 255) for value in range(0, 200, 10)]
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("width", [16, 18, 54, 64, 1280])
def test_planes_keep_every_pixel_at_any_width(tmp_path, width):
    """Rows of a plane are padded; a picture written without regard to that comes out sheared."""
    ramp = (torch.arange(width) % 16 * 16).to(torch.uint8).expand(3, 16, width)
    with writer(tmp_path, 0, (width, 16)) as file:
        file.write(ramp)
        file.flush()
    with av.open(str(tmp_path / "clip.mp4")) as container:
        plane = next(container.decode(video=0)).planes[0]
    luma = np.frombuffer(plane, np.uint8).reshape(16, plane.line_size)[:, :width]
    expected = np.round(16 + ramp[0].numpy().astype(float) * 219 / 255)
    assert np.abs(luma - expected).max() <= 1


def test_colours_are_bt709_and_rounded(tmp_path):
    """Every luma sample is within rounding of BT.709's formula, and nothing leans to one side."""
    small = torch.rand(2, 3, 8, 10, generator=torch.Generator().manual_seed(3))
    frames = to_planar_bytes(torch.nn.functional.interpolate(small, size=(64, 80), mode="bilinear"))
    with writer(tmp_path, 0, (80, 64)) as file:
        for picture in frames:
            file.write(picture)
        file.flush()
    planes, _ = read_planes(tmp_path / "clip.mp4")
    for picture, written in zip(frames, planes, strict=True):
        luma, blue, red = bt709(picture.movedim(0, -1).numpy())
        assert np.abs(written[0] - luma).max() <= 0.6
        assert abs((written[0] - luma).mean()) < 0.05
        for plane, exact in ((written[1], halved(blue)), (written[2], halved(red))):
            assert abs((plane - exact).mean()) < 0.05
            assert np.abs(plane - exact).max() < 3.0


def test_channels_are_red_green_blue(tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    with writer(tmp_path, 0) as file:
        for colour in colours.values():
            file.write(torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, SIZE[1], SIZE[0]))
        file.flush()
    with av.open(str(tmp_path / "clip.mp4")) as container:
        luma = [int(np.frombuffer(picture.planes[0], np.uint8)[0]) for picture in container.decode(video=0)]
    assert luma == [round(16 + 219 * part) for part in (0.2126, 0.7152, 0.0722)]  # ITU-R BT.709


def test_bytes_are_rounded_and_clipped():
    values = torch.tensor([-0.5, 0.0, 100.4 / 255, 100.6 / 255, 1.0, 1.5]).view(1, 1, 1, 6)
    assert to_planar_bytes(values).flatten().tolist() == [0, 0, 100, 101, 255, 255]
    assert values[0, 0, 0, 0] == -0.5  # the images belong to somebody else


def test_interrupt_while_frames_are_put(tmp_path):
    ticks = iter([None] * 5)

    def tick():
        if next(ticks, "end") == "end":
            raise InterruptedRunError

    before = threading.active_count()
    with pytest.raises(InterruptedRunError), writer(tmp_path) as file, EncoderThread(file, tick) as encoder:
        while True:
            encoder.put(frame())
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_interrupt_while_the_last_frames_are_encoded(tmp_path, monkeypatch):
    """The thread is still busy when everything has been put; the interrupt must not wait for all of it."""
    monkeypatch.setattr(StreamWriter, "write", lambda self, frame: time.sleep(0.2))
    put = []

    def tick():
        if len(put) == 3:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError), writer(tmp_path) as file, EncoderThread(file, tick) as encoder:
        for _ in range(3):
            encoder.put(frame())
            put.append(1)
    assert list(tmp_path.iterdir()) == []


def test_error_of_the_source_stops_the_thread(tmp_path):
    before = threading.active_count()
    with pytest.raises(KeyError), writer(tmp_path) as file, EncoderThread(file, nothing) as encoder:
        encoder.put(frame())
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_bad_option_surfaces_as_itself_and_stops_the_source(tmp_path):
    """H.264 with 4:2:0 colour cannot have an odd width; libx264 says so when it sees the first frame."""
    put = []
    with (
        pytest.raises(av.error.FFmpegError) as error,
        writer(tmp_path, 19, (47, 32)) as file,
        EncoderThread(file, nothing) as encoder,
    ):
        for _ in range(1000):
            encoder.put(torch.zeros(3, 32, 47, dtype=torch.uint8))
            put.append(1)
            time.sleep(0.01)
    assert "avcodec_open2" in str(error.value)
    assert len(put) < 1000
    assert list(tmp_path.iterdir()) == []


def test_error_of_the_last_frame_surfaces_on_leaving(tmp_path):
    with (
        pytest.raises(av.error.FFmpegError),
        writer(tmp_path, 19, (47, 32)) as file,
        EncoderThread(file, nothing) as encoder,
    ):
        encoder.put(torch.zeros(3, 32, 47, dtype=torch.uint8))
    assert list(tmp_path.iterdir()) == []


DISK_FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from fractions import Fraction
from wan_flf2v.video.settings import Settings
from wan_flf2v.video.encoder_thread import EncoderThread
from wan_flf2v.video.stream_writer import StreamWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
folder, put = Path(sys.argv[1]), 0
try:
    file = StreamWriter(folder / "clip.mp4", 256, 256, Settings(Fraction(16), crf=0))
    with file, EncoderThread(file, lambda: None) as encoder:
        while put < 2000:
            encoder.put(torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8))
            put += 1
except OSError as error:
    print(error.errno, put < 2000, list(folder.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_full_disk_surfaces_as_itself_and_leaves_nothing(tmp_path):
    """A real refusal to write, by the system's limit on file sizes (error 27, EFBIG)."""
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path.parent, timeout=60)
    assert done.stdout.strip() == "27 True []", done.stderr[-2000:]
