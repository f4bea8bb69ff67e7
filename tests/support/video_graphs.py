"""Graphs that write a video, and the file read back."""

import av
import numpy as np
from safetensors.torch import save_file

from support.demo_graphs import demo_graph, only, set_inputs


def images_graph(host, frames, **inputs):
    """Return a graph that writes these frames, [frames, height, width, channels] in 0...1."""
    save_file({"image": frames.contiguous()}, host.base_dir / "input" / "frames.safetensors")
    graph = only(demo_graph(), "73")
    del graph["73"]["inputs"]["latent"], graph["73"]["inputs"]["vae"]
    graph["frames"] = {"class_type": "WanFLF2VTestLoadTensorImage", "inputs": {"name": "frames"}}
    graph["73"]["inputs"]["images"] = ["frames", 0]
    return set_inputs(graph, **inputs)


def read_planes(path):
    """Return the stream and its frames as [luma, blue difference, red difference] arrays."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [
            [
                np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].astype(float)
                for plane in frame.planes
            ]
            for frame in container.decode(stream)
        ]
        context = stream.codec_context
        tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
        return frames, {
            "size": (stream.width, stream.height),
            "rate": float(stream.average_rate),
            "codec": context.name,
            "format": context.pix_fmt,
            "profile": context.profile,
            "tags": tags,
            "metadata": dict(container.metadata),
        }


def latent_graph(latent_frames=6, width=64, height=48, **inputs):
    """Return a graph that decodes seeded noise."""
    graph = only(demo_graph(), "39", "73")
    size = {"seed": 3, "frames": latent_frames, "width": width // 8, "height": height // 8}
    graph["57"] = {"class_type": "WanFLF2VTestRandomLatent", "inputs": size}
    return set_inputs(graph, **inputs)
