"""The command line as a process against a real ComfyUI, at the demo's size."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import av
import pytest
from PIL import Image
from support.expert_graphs import write_lora
from wan_flf2v.contract.parameters import DEMO, DEMO_WORKFLOW
from wan_flf2v.contract.workflow import graph_for, graph_with_defaults, ui_form

IMAGES = Path(__file__).resolve().parents[2] / "demo" / "images"

# What templates need on the demo's models, in a file: only data differs from what users run.
DEMO_INPUTS = {"57_steps": "2", "57_cfg": "1", "67_length": "17", "73_frame_rate": "12"}


@pytest.fixture(scope="module")
def demo_file(tmp_path_factory):
    """The demo's workflow in API form, with other node ids: what finds images and texts must be the links."""
    graph = graph_for(DEMO)
    ids = {node_id: str(1000 + place) for place, node_id in enumerate(sorted(graph)) if int(node_id) < 57}
    for node in graph.values():
        node["inputs"] = {
            name: [ids.get(value[0], value[0]), value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
    path = tmp_path_factory.mktemp("workflow") / "demo.json"
    path.write_text(json.dumps({ids.get(node_id, node_id): node for node_id, node in graph.items()}))
    return path


def command(server, *arguments):
    images = ("--start", IMAGES / "start.jpg", "--end", IMAGES / "end.jpg")
    words = ("-m", "wan_flf2v", "run", *images, "--prompt", "a puppy", *arguments, "--server", server.url)
    return [sys.executable, *map(str, words)]


def run_cli(server, *arguments, cwd):
    return subprocess.run(command(server, *arguments), cwd=cwd, capture_output=True, encoding="utf-8", check=False)


def settings(**inputs):
    return [word for key, value in {**DEMO_INPUTS, **inputs}.items() for word in ("--set", f"{key}={value}")]


def answer(server, path):
    with urllib.request.urlopen(f"{server.url}/{path}") as response:
        return json.load(response)


def test_a_video_from_two_images_and_a_prompt(comfy_server, demo_file, tmp_path):
    given = ("--workflow", demo_file, *settings(**{"57_cfg": "2"}), "--size", "128x96", "--negative", "a cat")
    (tmp_path / "out.mp4").write_text("an older result that the user named")
    done = run_cli(comfy_server, *given, "-o", "out.mp4", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "out.mp4\n"), done.stderr
    lines = done.stderr.splitlines()
    assert any(re.match(r" *\d+%  \d+ \w", line) for line in lines), "a busy machine may miss one node, not all"
    assert lines[0].startswith(
        "Warning: cfg is 2, but demo_wan22_high_noise.safetensors (model_high_noise) looks made for"
    )
    assert re.fullmatch(r"Done in \d+\.\d s\.", lines[-1])
    with av.open(tmp_path / "out.mp4") as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (128, 96, 12)
        assert sum(1 for _ in video.decode(stream)) == 17
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    graph = list(answer(comfy_server, "history").values())[-1]["prompt"][2]
    texts = [node["inputs"]["text"] for node in graph.values() if node["class_type"] == "CLIPTextEncode"]
    assert sorted(texts) == ["a cat", "a puppy"]
    assert graph["71"]["inputs"] == {"preset": "custom", "width": 128, "height": 96}

    # The same again, from ComfyUI's cache, under the server's name: what lies there is not overwritten.
    again = [run_cli(comfy_server, *given, cwd=tmp_path) for _ in range(2)]
    first, second = (Path(run.stdout.strip()) for run in again)
    assert re.fullmatch(r"wan_flf2v_\d+_?\.mp4", first.name), again[0].stderr
    assert second.name == f"{first.stem}-2.mp4"
    content = (tmp_path / "out.mp4").read_bytes()
    assert (tmp_path / first).read_bytes() == (tmp_path / second).read_bytes() == content


def test_the_demos_workflow_by_its_name_is_in_the_file_as_the_editor_saves_it(comfy_server, tmp_path):
    small = settings(**{"57_steps": "1"})
    done = run_cli(comfy_server, "--workflow", DEMO_WORKFLOW, *small, "-o", "out.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with av.open(tmp_path / "out.mp4") as video:
        graph, form = (json.loads(video.metadata[name]) for name in ("prompt", "workflow"))
    given = {**graph_with_defaults(DEMO)["57"]["inputs"], "steps": 1, "cfg": 1}
    assert (graph["57"]["inputs"], graph["6"]["inputs"]["text"]) == (given, "a puppy")
    assert form == ui_form("wan22_flf2v", graph)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process on Windows")
def test_ctrl_c_cancels_this_prompt(comfy_server, demo_file, tmp_path):
    slow = settings(**{"67_length": "33", "57_steps": "20", "57_noise_seed": "4711"})
    arguments = command(comfy_server, "--workflow", demo_file, *slow, "--size", "128x128", "-o", "out.mp4")
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, encoding="utf-8") as process:
        seen = next(line for line in process.stderr if "57 Sampler" in line)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130, seen + rest
    assert rest.splitlines()[-1] == "Cancelled."
    assert "Traceback" not in rest
    assert answer(comfy_server, "queue") == {"queue_running": [], "queue_pending": []}
    last = list(answer(comfy_server, "history").values())[-1]
    assert last["prompt"][2]["57"]["inputs"]["noise_seed"] == 4711
    assert last["status"]["messages"][-1][0] == "execution_interrupted"
    assert not list(tmp_path.iterdir())


def test_missing_models_are_one_clear_message(comfy_server, tmp_path):
    prompts = comfy_server.log_text().count("got prompt")
    done = run_cli(comfy_server, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    told = [line for line in done.stderr.splitlines() if line.startswith("Node ")]
    assert all("wan-flf2v models download --variant fp8" in line for line in told)
    assert [line.partition(" needs the model file ")[0] for line in told] == [
        'Node 37 "High-noise expert"',
        'Node 38 "Text encoder"',
        'Node 39 "VAE"',
        'Node 56 "Low-noise expert"',
    ]
    assert f"Put it into {comfy_server.base_dir / 'models' / 'text_encoders'}, or " in told[1]
    assert comfy_server.log_text().count("got prompt") == prompts, "nothing was queued"
    assert "Traceback" not in done.stderr


def test_four_steps_on_the_bundled_workflow(comfy_server, tmp_path):
    """What the README advises for 4-step LoRAs, outside the hosted page's ranges, with one LoRA for each expert."""
    lora = write_lora(comfy_server)
    loaders = {node_id: node["inputs"] for node_id, node in DEMO.loaders.items()}
    files = {
        "37_unet_name": loaders["37"]["unet_name"],
        "56_unet_name": loaders["56"]["unet_name"],
        "39_vae_name": loaders["39"]["vae_name"],
    }
    four = settings(**{**files, "57_steps": "4", "54_shift": "5"})
    loras = ("--lora-high", f"{lora}:0.8", "--lora-low", lora, "--lora-high", lora)
    done = run_cli(comfy_server, *four, *loras, "--size", "64x64", cwd=tmp_path)
    # The demo has no CLIP that the bundled CLIPLoader takes, so preflight stops it: with all the rest in place.
    assert done.returncode == 1
    assert [line.partition(" needs the model file")[0] for line in done.stderr.splitlines() if "needs" in line] == [
        'Node 38 "Text encoder"'
    ]


def test_loras_are_in_the_run(comfy_server, demo_file, tmp_path):
    lora = write_lora(comfy_server)
    loras = ("--lora-high", f"{lora}:0.8", "--lora-high", lora, "--lora-low", lora)
    done = run_cli(comfy_server, "--workflow", demo_file, *settings(), *loras, "--size", "64x64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    graph = list(answer(comfy_server, "history").values())[-1]["prompt"][2]
    added = {node_id: node["inputs"] for node_id, node in graph.items() if node["class_type"] == "LoraLoaderModelOnly"}
    inputs = graph["57"]["inputs"]
    second = added[inputs["model_high_noise"][0]]
    first = added[second["model"][0]]
    low = added[inputs["model_low_noise"][0]]
    assert [one["strength_model"] for one in (first, second, low)] == [0.8, 1.0, 1.0]
    assert graph[first["model"][0]]["class_type"] == "ModelSamplingSD3"
    assert graph[low["model"][0]]["class_type"] == "UNETLoader"


def test_values_are_checked_by_what_comfyui_says(comfy_server, demo_file, tmp_path):
    lora = write_lora(comfy_server)
    wrong = settings(**{"57_steps": "0", "57_sampler_name": "eular", "67_fit": "crp", "57_cfg": "x"})
    given = ("--workflow", demo_file, *wrong, "--lora-low", lora.replace("lora", "lorra"), "--size", "64x99999")
    done = run_cli(comfy_server, *given, cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.partition(". ")[0] for line in lines[:2]] == [
        "57_steps must be an integer from 1 to 10000, got 0",
        '57_cfg must be a number from 0.0 to 100.0, got "x".',
    ]
    assert "Did you mean euler?" in lines[2] and "Did you mean crop?" in lines[3]
    assert lines[4].startswith("--size (height) must be an integer from ") and f"Did you mean {lora}?" in lines[5]


def test_nodes_that_comfyui_lacks_are_named(comfy_server, demo_file, tmp_path):
    graph = json.loads(demo_file.read_text())
    graph["2000"] = {"class_type": "NoSuchNode", "inputs": {}}
    (tmp_path / "own.json").write_text(json.dumps(graph))
    done = run_cli(comfy_server, "--workflow", "own.json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"ComfyUI at {comfy_server.url} has no node NoSuchNode. Install or update the node pack that brings it."
    ]


def test_a_huge_upload_is_refused_in_words(new_comfy_server, demo_file, tmp_path):
    path = tmp_path / "noise.png"
    Image.effect_noise((1500, 1500), 100).save(path)
    assert path.stat().st_size > 1 << 20
    with new_comfy_server("--max-upload-size", "1") as server:
        done = run_cli(server, "--start", path, "--workflow", demo_file, cwd=tmp_path)
    assert done.returncode == 1
    size = path.stat().st_size >> 20
    assert done.stderr.splitlines()[-1] == f"{path} is larger than ComfyUI takes ({size} MB). Give a smaller file."
