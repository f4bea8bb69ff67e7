"""The gallery: several real MP4 files become one animated picture."""

import av
import numpy as np
import pytest
from PIL import Image
from wan_flf2v.demo.contact_sheet import COLUMNS
from wan_flf2v.demo.gallery import HOLD_MS, gallery


def write_video(path, brightness):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), brightness + 8 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("count", [1, COLUMNS + 1])
def test_every_video_has_its_place_and_the_ends_stand_still(tmp_path, count):
    videos = {f"word {i}": write_video(tmp_path / f"{i}.mp4", 40 * i + 20) for i in range(count)}
    gallery(videos, tmp_path / "gallery.webp")
    with Image.open(tmp_path / "gallery.webp") as picture:
        durations = []
        for frame in range(picture.n_frames):
            picture.seek(frame)
            picture.load()
            durations.append(picture.info["duration"])
        shown = picture.convert("RGB")
    assert durations == [HOLD_MS, 62, 62, 62, HOLD_MS]
    assert shown.height == {1: 190, COLUMNS + 1: 374}[count]
    for i in range(count):
        at = 6 + i % COLUMNS * 166 + 80, 6 + i // COLUMNS * 184 + 80
        assert abs(shown.getpixel(at)[0] - (40 * i + 52)) < 10
