"""A clip that cannot be finished, inside a real host's Python: at once, by its own error, with nothing left behind."""

import sys

import pytest
from support.in_comfyui import run_cases

PARTS = 17  # of 33 frames: the first, and then two at a time


@pytest.fixture(scope="module")
def ends(comfy_install, tmp_path_factory):
    if sys.platform == "win32":
        pytest.skip("files of a limited size are made another way on Windows")
    return run_cases(comfy_install, tmp_path_factory.mktemp("clips"), "clip_cases")


@pytest.mark.parametrize("name", ["whole", "matched"])
def test_a_clip_is_whole(ends, name):
    assert ends[name] == {"error": None, "asked": PARTS, "freed": True, "files": ["clip.mp4"], "frames": 33}


@pytest.mark.parametrize("name", ["interrupt", "matched interrupt"])
def test_an_interrupt_takes_effect_within_one_part(ends, name):
    assert ends[name] == {"error": "InterruptProcessingException", "asked": 3, "freed": True, "files": []}


@pytest.mark.parametrize("name", ["error", "matched error"])
def test_an_error_of_the_decoder_leaves_nothing(ends, name):
    assert ends[name] == {"error": "RuntimeError", "asked": 2, "freed": True, "files": []}


@pytest.mark.parametrize("name", ["out of memory", "matched out of memory"])
def test_out_of_memory_in_the_middle_begins_again_in_tiles(ends, name):
    assert ends[name] == {"error": None, "asked": 2, "freed": True, "files": ["clip.mp4"], "frames": 33}


@pytest.mark.parametrize("name", ["disk", "matched disk"])
def test_a_full_disk_is_its_own_error_and_stops_the_decoder(ends, name):
    assert ends[name]["error"] not in (None, "RuntimeError")
    assert ends[name]["files"] == []
    assert ends[name]["freed"]


def test_frames_that_wait_for_their_colours_are_shown_there_and_back(ends):
    """Two spools at the same time, both in a file."""
    assert ends["there and back"] == {"frames": 64, "different": 33, "returns": True, "files": 1}


def test_room_for_both_is_looked_at_before_a_frame_is_kept(ends):
    """Each of them alone would have room: the second would fail only after the whole decode."""
    refused = ends["no room for both"]
    assert refused["says"].startswith("[Errno 28] color_match keeps the decoded frames in ")
    assert "They need 1 MB there." in refused["says"]
    assert (refused["asked"], refused["files"]) == (1, 0)
