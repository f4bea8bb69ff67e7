"""Small model files with Wan's own tensor names and shapes; sparse ones as large as a test says."""

import json
import struct

import numpy
from safetensors.numpy import save_file

# Tensor -> shape, in letters: d width, f feed-forward width, i and o input and output channels, t text width.
_TENSORS = {
    "patch_embedding.weight": "di122",
    "text_embedding.0.weight": "dt",
    "head.modulation": "12d",
    "head.head.weight": "hd",
}
_LAYER = {"self_attn.q.weight": "dd", "cross_attn.k.weight": "dd", "ffn.0.weight": "fd", "ffn.2.weight": "df"}


def wan_tensors(*, in_channels=36, layers=2, prefix="", dtype=numpy.float16):
    """Return a part of a Wan transformer's tensors: 36 input channels are image-to-video, 16 text-to-video."""
    sizes = {"d": 128, "f": 256, "i": in_channels, "h": 4 * 16, "t": 64}
    layer = {f"blocks.{index}.{name}": shape for index in range(layers) for name, shape in _LAYER.items()}
    return {
        prefix + name: numpy.zeros([sizes.get(letter) or int(letter) for letter in shape], dtype)
        for name, shape in {**_TENSORS, **layer}.items()
    }


def write_wan(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(wan_tensors(**options), path)
    return path


def write_tensors(path, **tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: numpy.asarray(values, numpy.float32) for name, values in tensors.items()}, path)
    return path


def write_sparse(path, size):
    """Write a whole safetensors file of one tensor with ``size`` bytes that takes no room on the disk."""
    header = json.dumps({"padding": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    return path
