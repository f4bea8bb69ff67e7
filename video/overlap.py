"""Which frames two clips share: the last ones of one are the first ones of the next."""

from __future__ import annotations

import torch

# Frames are compared as pictures of this many blocks a side: what a VAE or an encoder changed is noise inside a block.
_BLOCKS = 24
# Frames are the same if they differ by less than this share of what changes from one frame to the next (frames that
# follow each other differ by all of it), or by less than two of 255 codes, which nobody sees repeat.
_SHARE_OF_STEP, _SAME = 0.75, 2 / 255
# Of two counts that are as good within half a code, as in a still, the smaller one leaves out fewer frames.
_AS_GOOD = 0.5 / 255


def shared_frames(before: torch.Tensor, after: torch.Tensor, most: int) -> int:
    """Return how many first frames of ``after`` are the last ones of ``before``, 0 to ``most``.

    Args:
        before: an IMAGE, float [frames, height, width, 3 or 4].
        after: another of the same size.
        most: how many it can be.
    """
    most = min(most, len(before), len(after))
    ends, begins = _blocks(before[-most - 1 :]), _blocks(after[: most + 1])
    steps = torch.cat([part.diff(dim=0).abs().mean((1, 2, 3)) for part in (ends, begins)])
    same = max(_SAME, _SHARE_OF_STEP * float(steps.median())) if len(steps) else _SAME
    apart = [float((ends[-count:] - begins[:count]).abs().mean()) for count in range(1, most + 1)]
    if not apart or min(apart) > same:
        return 0
    return 1 + next(i for i, one in enumerate(apart) if one <= min(apart) + _AS_GOOD)


def _blocks(images: torch.Tensor) -> torch.Tensor:
    """Return the mean colours of each frame's blocks, without the frame's own, which drifts from clip to clip."""
    sides = [min(side, _BLOCKS) for side in images.shape[1:3]]
    means = torch.stack(
        [
            torch.nn.functional.adaptive_avg_pool2d(image[..., :3].movedim(-1, 0).float().nan_to_num(0.0), sides)
            for image in images  # one by one: a copy of all would take as much memory as the clip
        ]
    )
    return means - means.mean((2, 3), keepdim=True)
