"""A ComfyUI pack that counts how many videos the Wan VAE begins to encode.

The number is in ``encodes.txt`` in ComfyUI's output folder. Only the first convolution's function is wrapped, which
stands in both ways of encoding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy.ldm.wan.vae import CausalConv3d

NODE_CLASS_MAPPINGS: dict[str, type] = {}

_forward = CausalConv3d.forward
_encodes = 0


def _counting(self: CausalConv3d, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    global _encodes
    if self.in_channels == 3 and x.shape[2] == 1:  # pixels, and the single frame that every video begins with
        _encodes += 1
        (Path(folder_paths.get_output_directory()) / "encodes.txt").write_text(str(_encodes), encoding="utf-8")
    return _forward(self, x, *args, **options)


CausalConv3d.forward = _counting
