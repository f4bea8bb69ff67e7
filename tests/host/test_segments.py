"""Segments: each is its single run, all load each expert once, a file has no frame twice, nothing stays behind."""

import asyncio
import uuid

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import media
from support.demo_graphs import set_inputs
from support.expert_graphs import notes, patch, write_lora
from support.segment_graphs import LOSSLESS, carried_graph, segments_graph
from support.shown import Shown
from support.video_graphs import images_graph, latent_graph, read_planes
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.errors import ComfyError, RunInterruptedError
from wan_flf2v.client.run import run_graph


def files_of(host, graph):
    """Run the graph and return the frames of each file, each frame one array of all its planes."""
    found = [read_planes(host.path(file))[0] for file in host.run(graph).files]
    return [[np.concatenate([plane.ravel() for plane in frame]) for frame in frames] for frames in found]


def equal(a, b):
    return len(a) == len(b) and all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


def test_one_file_has_each_segment_and_each_shared_frame_once(comfy_server):
    """Two seeds make two files; the segments are those of single runs, each with its own prompt and images."""
    graph = segments_graph(4, "wipe left\n\nzoom in\ndissolve", n57_seed_count=2, n57_noise_seed=11)
    joined = files_of(comfy_server, graph)
    assert [len(frames) for frames in joined] == [25, 25]
    graph["73"]["inputs"]["join_segments"] = False
    apart = files_of(comfy_server, graph)
    assert [len(frames) for frames in apart] == [9] * 6
    for seed in (0, 1):
        one, two, three = apart[seed::2]
        assert equal(joined[seed], [*one, *two[1:], *three[1:]])
    single = segments_graph(4, "zoom in", join=False, n57_noise_seed=12, n57_resume=False)
    for name, index in (("start", 1), ("end", 2)):
        one = {"image": ["images", 0], "batch_index": index, "length": 1}
        single[name] = {"class_type": "ImageFromBatch", "inputs": one}
        single["67"]["inputs"][f"{name}_image"] = [name, 0]
    single["6"]["inputs"]["text"] = "zoom in"
    del single["segments"]
    assert equal(files_of(comfy_server, single)[0], apart[3])


def test_a_keyframe_at_frame_0_is_the_start_image(comfy_server):
    """The same file, bit for bit: the frame is as known, and is not written twice at the seam."""
    graph = segments_graph(3, n57_resume=False)
    (with_start,) = files_of(comfy_server, graph)
    inputs = {"images": graph["67"]["inputs"].pop("start_image"), "frames": "0", "strength": 1.0}
    graph["keys"] = {"class_type": "WanFLF2VKeyframes", "inputs": {**inputs, "strength_low_noise": 1.0}}
    graph["67"]["inputs"]["keyframes"] = ["keys", 0]
    (with_keyframe,) = files_of(comfy_server, graph)
    assert len(with_start) == 17
    assert equal(with_start, with_keyframe)


def probed(host, *, prelude=False, **inputs):
    """Return a graph of three segments on one base model with LoRAs: the host has to load at every change."""
    graph = segments_graph(4, n57_handover="step", **inputs)
    graph["57"]["inputs"]["model_low_noise"] = ["37", 0]
    strengths = {"high": 1.0, "low": -1.0}
    if prelude:
        graph["57"]["inputs"]["model_prelude"] = ["37", 0]
        strengths["prelude"] = 0.5
    for expert, strength in strengths.items():
        patch(graph, expert, "LoraLoaderModelOnly", lora_name=write_lora(host), strength_model=strength)
        patch(graph, expert, "WanFLF2VMeasureProbe", label=expert)
    notes(host)
    return graph


def loaded(host):
    return [note["model"] for note in notes(host) if note.get("event") == "load"]


def test_all_segments_load_each_expert_once_and_count_as_one_run(comfy_server):
    graph = probed(comfy_server, n57_noise_seed=21, n57_handover_step=2)
    shown = Shown(comfy_server, graph)
    assert loaded(comfy_server) == ["high", "low"]
    texts = [text for node_id, text in shown.texts if node_id == "57"]
    assert [text.partition(",")[0] for text in texts if ", step " in text][::2] == [
        *("segment 1 of 3", "segment 2 of 3", "segment 3 of 3") * 2
    ]
    assert texts[-1].startswith("high noise 6 model calls, low noise 6 model calls")


def test_all_segments_load_the_preludes_model_once_too(comfy_server):
    """3 steps of it, then 1 and 2 of the experts."""
    graph = probed(comfy_server, prelude=True, n54_shift=8.0, n57_noise_seed=23, n57_handover_step=2)
    shown = Shown(comfy_server, graph)
    assert loaded(comfy_server) == ["prelude", "high", "low"]
    (*_, last) = (text for node_id, text in shown.texts if node_id == "57")
    assert last.startswith("prelude 9 model calls, high noise 3 model calls, low noise 6 model calls")


def test_segments_that_need_one_expert_alone_wait_for_it(comfy_server):
    graph = probed(comfy_server, n57_noise_seed=22)
    for number, value in enumerate((0, 2, 4)):
        graph[f"step_{number}"] = {"class_type": "PrimitiveInt", "inputs": {"value": value}}
    inputs = {f"inputs.input{number}": [f"step_{number}", 0] for number in range(3)}
    graph["steps"] = {"class_type": "CreateList", "inputs": inputs}
    graph["57"]["inputs"]["handover_step"] = ["steps", 0]
    shown = Shown(comfy_server, graph)
    assert loaded(comfy_server) == ["high", "low"]
    told = [data["value"] for kind, data in shown.events if kind == "progress" and data["node"] == "57"]
    assert (told[0], told[-1]) == (1, 12), "the host leaves out some in between"
    assert told == sorted(told)


@pytest.mark.parametrize("count", [1, 5])
def test_frames_carried_over_are_the_videos_last_ones_and_are_written_once(comfy_server, count):
    graph = carried_graph(count)
    graph["decoded"] = {"class_type": "VAEDecode", "inputs": {"samples": ["57", 0], "vae": ["39", 0]}}
    for name, images in (("kept", ["last", 0]), ("all", ["decoded", 0])):
        graph[f"save_{name}"] = {"class_type": "WanFLF2VMeasureSaveFrames", "inputs": {"images": images, "name": name}}
    (joined,) = files_of(comfy_server, graph)
    assert len(joined) == 17 + 17 - count
    kept, whole = (np.load(comfy_server.base_dir / "output" / f"{name}.npy") for name in ("kept", "all"))
    assert np.array_equal(kept, whole[-count:])


@pytest.mark.parametrize("shared", [0, 1, 5])
def test_images_that_are_joined_are_compared(comfy_server, shared):
    """Frames of a look around; the second segment has fine noise on the shared ones, as from another decode."""
    generator = torch.Generator().manual_seed(4)
    scene = torch.nn.functional.interpolate(
        torch.rand(1, 3, 6, 40, generator=generator), size=(48, 320), mode="bicubic"
    )
    frames = torch.stack([scene[0, :, :, 3 * number : 3 * number + 64] for number in range(34)]).movedim(1, -1)
    second = frames[17 - shared :].clone()
    second[:shared] += 0.02 * torch.randn(second[:shared].shape, generator=generator)
    graph = images_graph(comfy_server, frames[:17], n73_format=LOSSLESS, n73_join_segments=True)
    save_file({"image": second.contiguous()}, comfy_server.base_dir / "input" / "second.safetensors")
    graph["second"] = {"class_type": "WanFLF2VTestLoadTensorImage", "inputs": {"name": "second"}}
    both = {"inputs.input0": ["frames", 0], "inputs.input1": ["second", 0]}
    graph["both"] = {"class_type": "CreateList", "inputs": both}
    graph["73"]["inputs"]["images"] = ["both", 0]
    told = Shown(comfy_server, graph)
    assert ("73", f"frames shared with the segment before: {shared}") in told.texts
    (file,) = comfy_server.run(graph).files
    written = media.decoded(comfy_server.path(file), "rgb24", (64, 48))
    assert np.array_equal(written, (frames * 255).round().clamp(0, 255).byte().numpy())


def match_colours(graph, start, end):
    inputs = {"strength": 1.0, "fit": "crop", "background": "#000000", "start_image": start, "end_image": end}
    graph["match"] = {"class_type": "WanFLF2VColorMatch", "inputs": inputs}
    graph["73"]["inputs"]["color_match"] = ["match", 0]


def test_colours_of_each_segment_follow_its_own_images(comfy_server):
    graph = segments_graph(3)
    match_colours(graph, ["segments", 0], ["segments", 1])
    shown = Shown(comfy_server, graph)
    text = [text for node_id, text in shown.texts if node_id == "73"][-1]
    assert "segment 1, colour: start" in text
    assert "segment 2, colour: start" in text


def with_empty_list(node_id, name):
    """Return a graph in which a node gets a list of latents without any."""
    graph = segments_graph(2)
    graph["none"] = {"class_type": "WanFLF2VTestEmptyList", "inputs": {}}
    graph[node_id]["inputs"][name] = ["none", 0]
    return graph


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (
            with_empty_list("57", "latent_image"),
            "latent_image is an empty list. Connect a list with at least one value",
        ),
        (with_empty_list("73", "latent"), "latent is an empty list. Connect a list with at least one value"),
        (segments_graph(1), "1 image connected, but a segment goes from one image to the next. Connect at least 2"),
        (segments_graph(4, "a\nb"), "prompts has 2 lines, but 4 images make 3 segments"),
        (set_inputs(carried_graph(1), nlast_frames=17), "frames is 17, but must be from 1 to 16"),
        (set_inputs(carried_graph(1), n57_seed_count=2), "latent has 2 videos, but a segment goes on from one"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(comfy_server, graph, says):
    before = written(comfy_server)
    with pytest.raises(ComfyError, match=says):
        comfy_server.run(graph)
    assert written(comfy_server) == before


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"n67_2_width": 48, "n67_2_height": 48}, "segment 2 has frames of 48x48 pixels and segment 1 has"),
        ({"n67_2_width": 62, "n67_2_height": 64}, "segment 2 has frames of 62x64 pixels and segment 1 has"),
        ({"n57_2_seed_count": 2}, "segment 2 has 2 clips and segment 1 has 1 clips"),
    ],
)  # fmt: skip
def test_segments_that_do_not_go_together(comfy_server, inputs, says):
    graph = carried_graph(1)
    for key, value in inputs.items():
        node_id, name = key[1:].split("_2_")
        graph[f"{node_id}_2"]["inputs"][name] = value
    before = written(comfy_server)
    with pytest.raises(ComfyError, match=says):
        comfy_server.run(graph)
    assert written(comfy_server) == before


def test_images_of_several_sizes_are_fitted_and_it_is_said(comfy_server):
    graph = segments_graph(1)
    other = {"seed": 6, "frames": 1, "width": 48, "height": 96, "channels": 3}
    graph["other"] = {"class_type": "WanFLF2VTestRandomImages", "inputs": other}
    graph["segments"]["inputs"]["image_3"] = ["other", 0]  # a socket may stay free
    shown = Shown(comfy_server, graph)
    text = "The images have 2 sizes (80x48, 48x96): each is fitted to the video, see fit."
    assert ("segments", text) in shown.texts


def sampled():
    return segments_graph(4, n57_noise_seed=31, n57_steps=20, n57_handover="step", n57_handover_step=10)


def with_prelude():
    prelude = {"n57_model_prelude": ["37", 0], "n57_prelude_schedule": 40, "n57_prelude_steps": 8}
    return segments_graph(4, n57_noise_seed=32, n57_steps=20, **prelude)


def encoded():
    """All frames are given, so that none is grey and skipped."""
    graph = segments_graph(
        401, n67_length=401, n67_encode="memoised", n67_start_image=["images", 0], n6_text="wipe left"
    )
    del graph["segments"], graph["67"]["inputs"]["end_image"]
    return graph


def carried():
    graph = latent_graph(latent_frames=21)
    last = {"latent": ["57", 0], "vae": ["39", 0], "frames": 5}
    graph["last"] = {"class_type": "WanFLF2VLastFrames", "inputs": last}
    del graph["73"]["inputs"]["latent"], graph["73"]["inputs"]["vae"]
    graph["73"]["inputs"]["images"] = ["last", 0]
    return graph


def decoded():
    graph = latent_graph(n73_join_segments=True)
    size = {"frames": 11, "width": 16, "height": 16}
    for number in (0, 1):
        graph[f"57_{number}"] = {"class_type": "WanFLF2VTestRandomLatent", "inputs": {"seed": number, **size}}
    graph["57"] = {"class_type": "CreateList", "inputs": {f"inputs.input{n}": [f"57_{n}", 0] for n in (0, 1)}}
    return graph


def waiting():
    """Each segment's frames wait for its last one: 41 that wait, 41 that are written, and the same again."""
    graph = decoded()
    size = {"seed": 6, "frames": 1, "width": 64, "height": 64, "channels": 3}
    graph["image"] = {"class_type": "WanFLF2VTestRandomImages", "inputs": size}
    match_colours(graph, ["image", 0], ["image", 0])
    return graph


@pytest.mark.parametrize(
    ("make", "node_id", "step"),
    [
        (encoded, "67", 20),
        (with_prelude, "57", 10),
        (sampled, "57", 12),
        (sampled, "57", 32),
        (carried, "last", 20),
        (decoded, "73", 48),
        (waiting, "73", 86),
    ],
    ids=[
        "encode",
        "second segment's prelude",
        "second segment's high noise",
        "first segment's low noise",
        "decode of the frames carried over",
        "second segment's decode",
        "second segment's wait for its last frame",
    ],
)
def test_an_interrupt_leaves_nothing_behind(comfy_server, make, node_id, step):
    graph = make()
    before, prompt_id = written(comfy_server), str(uuid.uuid4())

    async def go():
        async with ComfyClient(comfy_server.url) as client:
            tasks = []

            def on_progress(progress):
                if progress.node_id == node_id and progress.step >= step and not tasks:
                    tasks.append(asyncio.ensure_future(client.cancel(prompt_id)))

            with pytest.raises(RunInterruptedError):
                await run_graph(client, graph, prompt_id=prompt_id, on_progress=on_progress)
            assert await asyncio.gather(*tasks) == [True]

    asyncio.run(go())
    assert written(comfy_server) == before


def written(host):
    """Return the files in the output folder, and the frames that wait in the temporary one."""
    folders = [host.base_dir / name for name in ("output", "temp")]
    return {path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"}
