"""The benches of videos measure ComfyUI's own frames, although the training's form of the VAE makes them."""

import numpy as np
import torch
from wan_flf2v.benchmarks._graphs import add_node
from wan_flf2v.benchmarks._stage import run_graph
from wan_flf2v.benchmarks._videos import Videos
from wan_flf2v.contract.parameters import DEMO
from wan_flf2v.contract.workflow import graph_for


def test_a_clip_comes_through_the_vae_as_through_comfyuis_nodes(comfy_server):
    clip = torch.rand(3, 9, 32, 48, generator=torch.Generator().manual_seed(3))
    found = Videos(comfy_server, {}).clip_through_vae(clip)

    graph = {"39": graph_for(DEMO)["39"]}
    frames = add_node(graph, "clip", "WanFLF2VMeasureLoadFrames", name="clip")  # as it was written above
    encoded = add_node(graph, "encode", "VAEEncode", pixels=frames, vae=["39", 0])
    decoded = add_node(graph, "decode", "VAEDecode", samples=encoded, vae=["39", 0])
    add_node(graph, "save", "WanFLF2VMeasureSaveFrames", images=decoded, name="by_comfyui")
    run_graph(comfy_server, graph)
    expected = torch.from_numpy(np.load(comfy_server.base_dir / "output" / "by_comfyui.npy")).movedim(-1, 0)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
