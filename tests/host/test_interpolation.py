"""The interpolation between decode and file, inside a real host's Python: memory, numbers that overflow, progress."""

from pathlib import Path

import pytest
from support.in_comfyui import run_cases

PARTS = 9  # of 17 frames: the first, and then two at a time
WARNING = "out of memory in the frame interpolation: all models are unloaded, and it goes on with two frames at a time"


@pytest.fixture(scope="module")
def cases(comfy_install, tmp_path_factory):
    if not (Path(comfy_install["path"]) / "comfy_extras" / "nodes_frame_interpolation.py").exists():
        pytest.skip("this ComfyUI has no frame interpolation")
    return run_cases(comfy_install, tmp_path_factory.mktemp("interpolation"), "interpolation_cases")


def test_a_vae_that_is_unloaded_in_the_middle_of_its_decode_changes_no_bit(cases):
    """The interpolation takes its place, and it comes back for each part; at the last call all is decoded."""
    expected = {"calls": 4, "evictions": 3, "parts with the VAE": PARTS, "frames": 49, "alike": True}
    assert cases["evicted"] == expected


def test_progress_is_that_of_the_file_and_the_log_has_no_bars(cases):
    values, totals = zip(*cases["quiet"]["progress"], strict=True)
    assert set(totals) == {49}
    assert list(values) == sorted(values)
    assert cases["quiet"]["printed"] == "a warning\n" * 4


def test_no_numbers_of_the_interpolation_are_those_of_the_node_on_the_whole_clip(cases):
    (line,) = cases["overflow"]["log"]
    assert line.startswith("frames have values that are infinite or no numbers")
    assert cases["overflow"] == {"log": [line], "alike": True, "log of the whole": [line]}


def test_an_interpolation_without_memory_goes_on_pair_by_pair(cases):
    assert cases["out of memory once"] == {"alike": True, "parts": PARTS, "log": [WARNING]}


def test_an_interpolation_that_never_fits_is_the_hosts_error_and_nothing_is_decoded_again(cases):
    """Six frames are needed before its first call, which are in four parts."""
    assert cases["out of memory for ever"] == {"error": True, "parts": 4, "log": [WARNING], "files": []}
