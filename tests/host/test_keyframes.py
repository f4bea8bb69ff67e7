"""Images between the ends: what node 67 makes of them, and that each expert gets its own strength."""

import asyncio

import pytest
import torch
from support.demo_graphs import set_inputs
from support.expert_graphs import sampler_graph
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.errors import ComfyError
from wan_flf2v.client.run import run_graph


def keyframes(graph, frames, node_id="keys", count=1, seed=5, **inputs):
    """Add random images as keyframes to node 67; further ones go before those that it has."""
    images = {"seed": seed, "frames": count, "width": 80, "height": 48, "channels": 3}
    graph[f"{node_id}_images"] = {"class_type": "WanFLF2VTestRandomImages", "inputs": images}
    inputs = {
        "images": [f"{node_id}_images", 0],
        "frames": frames,
        "strength": 1.0,
        "strength_low_noise": 1.0,
        **inputs,
    }
    earlier = graph["67"]["inputs"].get("keyframes")
    graph[node_id] = {
        "class_type": "WanFLF2VKeyframes",
        "inputs": {**inputs, **({"keyframes": earlier} if earlier else {})},
    }
    graph["67"]["inputs"]["keyframes"] = [node_id, 0]
    return graph


def conditioning(host, graph, name):
    inputs = {"conditioning": ["67", 0], "name": name}
    host.run({**graph, "dump": {"class_type": "WanFLF2VTestDumpConditioning", "inputs": inputs}})
    return host.tensors(name)


def test_the_memoised_encode_is_the_hosts_and_the_mask_is_the_official_layouts(comfy_server):
    graph = set_inputs(sampler_graph(), n67_length=33)
    without = conditioning(comfy_server, graph, "without")
    keyframes(graph, "9, 21", count=2)
    keyframes(graph, "28", node_id="more", seed=6, strength=0.25)
    found = {how: conditioning(comfy_server, set_inputs(graph, n67_encode=how), how) for how in ("host", "memoised")}
    image, mask = (next(key for key in without if name in key) for name in ("concat_latent_image", "concat_mask"))
    assert torch.equal(found["host"][image], found["memoised"][image])
    assert not torch.equal(found["host"][image], without[image])
    expected = without[mask].clone()
    expected[0, 3, 2] = expected[0, 3, 5] = 0.0  # frames 8 and 20
    expected[0, 3, 7] = 0.75
    assert torch.equal(found["memoised"][mask], expected)


@pytest.mark.parametrize(("first_low_step", "strength"), [(0, 0.5), (4, 1.0)])
def test_each_expert_has_its_own_strength(comfy_server, first_low_step, strength):
    """All steps on one expert: the run is that of a keyframe which has this expert's strength for both."""

    def run(high, low):
        steps = {"n57_steps": 4, "n57_handover": "step", "n57_handover_step": first_low_step}
        graph = keyframes(set_inputs(sampler_graph(**steps), n67_length=17), "8", strength=high, strength_low_noise=low)
        comfy_server.run(graph)
        return comfy_server.tensors("ours")

    own, both, other = run(1.0, 0.5), run(strength, strength), run(0.1, 0.1)
    assert all(torch.equal(own[key], both[key]) for key in own)
    assert not all(torch.equal(own[key], other[key]) for key in own)


@pytest.mark.parametrize(
    ("length", "frames", "count", "says"),
    [
        (17, "8, 12", 1, "frames has 2 numbers, but images has 1 images"),
        (17, "20", 1, "an image at frame 20, but the video's frames are 0 to 16"),
        (17, "18", 1, "an image at frame 18, but the video's frames are 0 to 16"),
        (17, "8, 9", 2, "an image at frame 9, which becomes 8, which is in latent frame 2, and so is another keyframe"),
        (17, "16", 1, "an image at frame 16, which is in latent frame 4, and so is end_image"),
        (17, "1", 1, "an image at frame 1, which becomes 0, which is in latent frame 0, and so is start_image"),
        (17, "eight", 1, "frames has 'eight' in it, but must be 1 to 64 frame numbers"),
        (17, "-8", 1, "frames has '-8' in it"),
        (17, " ", 1, "frames has 0 numbers"),
    ],
)
def test_what_cannot_be_is_said(comfy_server, length, frames, count, says):
    graph = keyframes(set_inputs(sampler_graph(), n67_length=length), frames, count=count)

    async def go():
        async with ComfyClient(comfy_server.url) as client:
            await run_graph(client, graph)

    with pytest.raises(ComfyError, match=says):
        asyncio.run(go())


def test_a_strength_that_another_node_gives_is_checked(comfy_server):
    graph = keyframes(set_inputs(sampler_graph(), n67_length=17), "8", strength_low_noise=["number", 0])
    graph["number"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 1.5}}
    with pytest.raises(ComfyError, match=r"strength_low_noise is 1\.5, but must be from 0 to 1\. Connect"):
        comfy_server.run(graph)
