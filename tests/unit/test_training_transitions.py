"""The transitions that the demo's words mean: which picture is where, halfway."""

import pytest
import torch
from wan_flf2v.training.transitions import transition_clip

SIDE = 32
# Left to right 0, 0.25 in the start picture and 0.75, 1 in the end picture.
START, END = (
    torch.tensor(halves).repeat_interleave(SIDE // 2).expand(3, SIDE, SIDE) for halves in ((0, 0.25), (0.75, 1))
)


def halfway(word):
    """Return what is at the left edge, beside the middle, at the right edge and in the centre, in the middle row."""
    row = transition_clip(word, START, END, 33)[0, 16, SIDE // 2]
    return [round(float(row[x]), 2) for x in (1, SIDE // 4, 3 * SIDE // 4, SIDE - 2)]


@pytest.mark.parametrize(
    ("word", "left_to_right"),
    [
        ("dissolve", [0.38, 0.38, 0.62, 0.62]),
        ("wipe left", [0, 0, 1, 1]),
        ("wipe right", [0.75, 0.75, 0.25, 0.25]),
        ("slide left", [0.25, 0.25, 0.75, 0.75]),
        ("slide right", [1, 1, 0, 0]),
        ("circle", [0, 0.75, 1, 0.25]),
    ],
)
def test_where_the_pictures_are(word, left_to_right):
    assert halfway(word) == left_to_right


def test_zoom_in_enlarges_the_start_and_shrinks_the_end():
    dot = torch.zeros(3, SIDE, SIDE)
    dot[:, 12:20, 12:20] = 1
    clip = transition_clip("zoom in", dot, torch.zeros_like(dot), 33)[0]
    widths = [int((clip[frame, SIDE // 2] > clip[frame].max() / 2).sum()) for frame in (0, 12)]
    assert widths[1] > widths[0] == 8
    clip = transition_clip("zoom in", torch.zeros_like(dot), dot, 33)[0]
    widths = [int((clip[frame, SIDE // 2] > clip[frame].max() / 2).sum()) for frame in (20, 32)]
    assert widths[0] > widths[1] == 8
