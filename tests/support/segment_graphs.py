"""Graphs of several segments: from image to image, and one after another with frames carried over."""

from support.demo_graphs import demo_graph, set_inputs, shorten_texts

LOSSLESS = "mkv FFV1"  # each frame for itself, so that the frames of two files can be compared


def segments_graph(images=3, prompts="wipe left", *, join=True, **inputs):
    """Return the demo graph on the segments between random images, its file without loss."""
    graph = shorten_texts(demo_graph(n73_format=LOSSLESS, n73_join_segments=join, n71_width=80, n71_height=48))
    size = {"seed": 5, "frames": images, "width": 80, "height": 48, "channels": 3}
    graph["images"] = {"class_type": "WanFLF2VTestRandomImages", "inputs": size}
    graph["segments"] = {"class_type": "WanFLF2VSegments", "inputs": {"image_1": ["images", 0], "prompts": prompts}}
    for node_id in ("62", "68"):
        del graph[node_id]
    for name in ("start_mask", "end_mask"):
        del graph["67"]["inputs"][name]
    graph["67"]["inputs"].update(start_image=["segments", 0], end_image=["segments", 1])
    graph["6"]["inputs"]["text"] = ["segments", 2]
    return set_inputs(graph, **inputs)


def carried_graph(frames, **inputs):
    """Return a graph of two segments; the second begins with the last ``frames`` of the first, and is joined to it."""
    graph = shorten_texts(demo_graph(n73_format=LOSSLESS, n73_join_segments=True, n67_length=17, **inputs))
    last = {"latent": ["57", 0], "vae": ["39", 0], "frames": frames}
    graph["last"] = {"class_type": "WanFLF2VLastFrames", "inputs": last}
    second = {**graph["67"]["inputs"], "start_image": ["last", 0]}
    del second["start_mask"]
    graph["67_2"] = {"class_type": "WanFLF2VConditioning", "inputs": second}
    inputs = {"positive": ["67_2", 0], "negative": ["67_2", 1], "latent_image": ["67_2", 2]}
    graph["57_2"] = {"class_type": "WanFLF2VSampler", "inputs": {**graph["57"]["inputs"], **inputs}}
    both = {"inputs.input0": ["57", 0], "inputs.input1": ["57_2", 0]}
    graph["both"] = {"class_type": "CreateList", "inputs": both}
    graph["73"]["inputs"]["latent"] = ["both", 0]
    return graph
