"""The client library against a real ComfyUI: runs, files, refusals, failures."""

import hashlib
import uuid

import pytest
from PIL import Image
from support.client_runs import failing_graph, slow_graph, with_client
from wan_flf2v.client.comfy import UPLOAD_FOLDER, OutputFile
from wan_flf2v.client.errors import (
    NoOutputError,
    OutOfMemoryError,
    PromptRejectedError,
    RunFailedError,
    ServerResponseError,
)
from wan_flf2v.client.run import run_graph
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.contract.workflow import load_graph


def test_a_run_reports_its_file_its_time_and_its_steps(comfy_server, tmp_path):
    moments = []

    async def use(client):
        assert (await client.system_stats())["system"]["comfyui_version"] == comfy_server.host_version
        graph = slow_graph(steps=8, seconds=0.2)
        result = await run_graph(client, graph, on_progress=moments.append, workflow={"nodes": []})
        return result, await client.download(result.files[0], tmp_path / "out.png")

    result, path = with_client(comfy_server, use)
    assert [(file.node_id, file.type) for file in result.files] == [("3", "output")]
    assert result.seconds >= 8 * 0.2
    steps = [moment.step for moment in moments if moment.node_id == "2" and moment.step]
    assert len(set(steps)) > 1, "some of the steps; ComfyUI leaves out those that follow each other fast"
    assert steps == sorted(steps)
    assert {moment.title for moment in moments if moment.step} == {"Slow"}
    assert [moment.fraction for moment in moments] == sorted(moment.fraction for moment in moments)
    assert (moments[-1].fraction, moments[-1].node_id) == (1.0, None)
    with Image.open(path) as image:
        assert image.size == (64, 64)
        assert image.text["workflow"] == '{"nodes": []}', "the UI form travels with the file"
    assert list(tmp_path.iterdir()) == [path], "no partial file stays"


def test_core_video_nodes_report_under_images(comfy_server):
    graph = slow_graph()
    graph["3"] = {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "fps": 8.0}}
    save = {"video": ["3", 0], "filename_prefix": "client_test", "format": "mp4", "codec": "h264"}
    graph["4"] = {"class_type": "SaveVideo", "inputs": save}
    result = with_client(comfy_server, lambda client: run_graph(client, graph))
    assert [(file.node_id, file.filename.endswith(".mp4")) for file in result.files] == [("4", True)]


def test_the_same_run_again_comes_from_the_cache_with_its_file(comfy_server):
    graph = slow_graph()
    first = with_client(comfy_server, lambda client: run_graph(client, graph))
    second = with_client(comfy_server, lambda client: run_graph(client, graph))
    assert second.files == first.files


def test_an_output_node_without_a_file_is_said(comfy_server):
    graph = {"1": {"class_type": "PrimitiveString", "inputs": {"value": str(uuid.uuid4())}}}
    graph["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    with pytest.raises(NoOutputError, match="The run finished, but no node reported a file"):
        with_client(comfy_server, lambda client: run_graph(client, graph))
    with pytest.raises(NoOutputError, match="had this exact run in its cache, ran nothing and reported no file"):
        with_client(comfy_server, lambda client: run_graph(client, graph))


def test_uploading_twice_changes_nothing_and_overwrites_nobody(comfy_server, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "Bild 1.PNG")

    async def use(client):
        return await client.upload_image(tmp_path / "Bild 1.PNG"), await client.upload_image(tmp_path / "Bild 1.PNG")

    name, again = with_client(comfy_server, use)
    content = (tmp_path / "Bild 1.PNG").read_bytes()
    assert name == again == f"{UPLOAD_FOLDER}/{hashlib.sha256(content).hexdigest()[:32]}.png"
    assert (comfy_server.base_dir / "input" / name).read_bytes() == content
    graph = slow_graph()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    assert with_client(comfy_server, lambda client: run_graph(client, graph)).files


def test_a_file_that_is_gone_is_said_and_leaves_nothing(comfy_server, tmp_path):
    file = OutputFile("none.mp4", "", "output", "3")
    with pytest.raises(ServerResponseError, match=r'reported the file "none.mp4" but no longer has it'):
        with_client(comfy_server, lambda client: client.download(file, tmp_path / "out.mp4"))
    assert not list(tmp_path.iterdir())


def test_missing_model_files_name_their_folders(comfy_server):
    graph = load_graph(HOSTED.workflow)
    loaders = {node_id: graph[node_id] for node_id in ("37", "56", "39")}
    missing = {
        "37": 'Node 37 "High-noise expert" needs the model file "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", '
        "which this ComfyUI does not have. Put it in ComfyUI's models/diffusion_models folder and run again.",
        "56": 'Node 56 "Low-noise expert" needs the model file "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors", '
        "which this ComfyUI does not have. Put it in ComfyUI's models/diffusion_models folder and run again.",
        "39": 'Node 39 "VAE" needs the model file "wan_2.1_vae.safetensors", which this ComfyUI does not have. '
        "Put it in ComfyUI's models/vae folder and run again.",
    }
    kinds = {"37": ("ModelSave", "model"), "56": ("ModelSave", "model"), "39": ("VAESave", "vae")}
    for node_id, loader in loaders.items():
        kind, name = kinds[node_id]
        save = {"class_type": kind, "inputs": {name: [node_id, 0], "filename_prefix": "x"}}
        small = {node_id: loader, "1": save}
        with pytest.raises(PromptRejectedError) as info:
            with_client(comfy_server, lambda client, small=small: run_graph(client, small))
        assert str(info.value).partition(" Files that are there: ")[0] == missing[node_id]
        assert info.value.node_id == node_id


def test_missing_node_and_missing_image(comfy_server):
    graph = slow_graph()
    graph["2"]["class_type"] = "WanFLF2VNothing"
    with pytest.raises(PromptRejectedError) as info:
        with_client(comfy_server, lambda client: run_graph(client, graph))
    assert str(info.value).startswith('The type of node 2 "Slow", WanFLF2VNothing, is unknown to this ComfyUI.')
    graph = slow_graph()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": "none.png"}, "_meta": {"title": "Start image"}}
    with pytest.raises(PromptRejectedError) as info:
        with_client(comfy_server, lambda client: run_graph(client, graph))
    assert str(info.value) == (
        'Node 1 "Start image": the image "none.png" is not in ComfyUI\'s input folder. Upload it, or choose another.'
    )


def test_a_partly_refused_workflow_does_not_run_in_part(comfy_server):
    """ComfyUI queues what is valid, returns 200 and mentions the rest."""
    graph = slow_graph(steps=1000)
    graph["9"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
    prompt_id = str(uuid.uuid4())

    async def use(client):
        with pytest.raises(PromptRejectedError, match='Node 9 "SaveImage": the required input "images" is missing'):
            await run_graph(client, graph, prompt_id=prompt_id)
        return (await client.queue()).position(prompt_id)

    assert with_client(comfy_server, use) is None


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        (
            "error",
            RunFailedError,
            'Node 2 "WanFLF2VTestFail" failed: the shift of the low-noise model is 5.0, that of the high-noise model '
            "is 8.0 (ValueError)",
        ),
        ("cpu memory", OutOfMemoryError, 'ComfyUI ran out of memory at node 2 "WanFLF2VTestFail". Choose a smaller'),
        ("gpu memory", OutOfMemoryError, 'ComfyUI ran out of memory at node 2 "WanFLF2VTestFail". Choose a smaller'),
    ],
)
def test_a_node_that_fails(comfy_server, how, kind, message):
    with pytest.raises(RunFailedError) as info:
        with_client(comfy_server, lambda client: run_graph(client, failing_graph(how)))
    assert type(info.value) is kind
    assert str(info.value).startswith(message)
    assert info.value.node_id == "2"
