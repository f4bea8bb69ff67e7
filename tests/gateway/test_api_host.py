"""The contract end to end: a real gateway in front of a real ComfyUI."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import uuid

import av
import pytest
from PIL import Image
from support.client_runs import finished, queue_as_someone_else, runs, slow_graph, wait_until, with_client
from support.gateway_process import CURL_BODY, SUBMIT, SUBMIT_DEMO, Gateway, all_events, call, events
from support.wan_files import write_sparse
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.contract.parameters import DEMO, HOSTED
from wan_flf2v.contract.workflow import load_graph, ui_form

FAST = {"71_widthx71_height": "96x128 (3:4)", "67_length": 17, "57_steps": 2}
GUIDED = {**FAST, "57_cfg": 2}  # more than the demo's models were made for: preflight warns
IMAGES = {"68_image": "start.jpg", "62_image": "end.jpg"}
# What the bundled workflow loads; ComfyUI only looks at the names before it runs something.
MODEL_FILES = {
    "diffusion_models": ("37", "56"),
    "text_encoders": ("38",),
    "vae": ("39",),
}


@pytest.fixture(scope="module")
def gateway(new_gateway, comfy_server):
    """A gateway in front of the shared ComfyUI."""
    return new_gateway(comfy_server.url, demo=True)


@pytest.fixture(scope="module")
def done(gateway):
    """A request that succeeded: its result, and the events that its client saw."""
    request_id = gateway.submit(SUBMIT_DEMO, **GUIDED, **IMAGES, **{"57_noise_seed": 7})
    seen = list(events(gateway, request_id))
    assert seen[-1][1]["status"] == "completed"
    result = gateway.result(request_id)
    assert result["status"] == "succeeded", result
    return result, seen


def listed(gateway, model_id=HOSTED.model_id):
    return gateway.get(f"/v1/models/{model_id}").json


def fetch(gateway, url, method="GET", **headers):
    return call(gateway.url, method, url.removeprefix(gateway.url), headers=headers)


@pytest.mark.smoke
def test_preview_frames_show_the_video_in_the_making(gateway):
    """Four frames of the clip side by side, as node 57 shows them in the editor; they are gone at the end."""
    request_id = gateway.submit(SUBMIT_DEMO, **{**FAST, **IMAGES, "57_steps": 6, "57_noise_seed": 8})
    seen = list(all_events(gateway, f"/v1/requests/{request_id}/events?preview=1"))
    images = [base64.b64decode(data["image"].partition(",")[2]) for name, _, data in seen if name == "preview"]
    assert images and all(image is None for name, image, _ in seen if name == "preview"), "no SSE id"
    picture = Image.open(io.BytesIO(images[-1]))
    assert picture.format == "JPEG"
    assert picture.width / picture.height == pytest.approx(4 * 96 / 128, rel=0.02)
    assert list((gateway.data / "previews").iterdir()) == []


@pytest.mark.smoke
def test_a_request_succeeds_with_the_pages_output(done):
    result, _ = done
    assert set(result["output"]) == {"image", "video", "images", "videos"}
    assert result["output"]["videos"] == [result["output"]["video"]]
    assert result["output"]["images"] == [result["output"]["image"]]
    assert result["created_at"] < result["finished_at"]
    assert result["seed"] == 7
    assert [text.partition(",")[0] for text in result["warnings"]] == ["cfg is 2", "cfg of the low-noise expert is 2"]
    assert result["host_version"]
    assert result["timings"]["total"] > 0


def test_events_show_the_progress(done):
    _, seen = done
    versions = [version for version, _ in seen]
    assert versions == sorted(versions)
    assert "in_progress" in [state["status"] for _, state in seen]
    fractions = [state["progress"]["fraction"] for _, state in seen if "progress" in state]
    assert fractions == sorted(fractions)
    assert all(0 <= fraction <= 1 for fraction in fractions)


def test_the_files_are_what_they_say_and_need_no_token(gateway, done, tmp_path):
    output = done[0]["output"]
    video = fetch(gateway, output["video"])
    assert (video.status, video.headers["Content-Type"]) == (200, "video/mp4")
    (tmp_path / "v.mp4").write_bytes(video.content)
    with av.open(str(tmp_path / "v.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        prompt, form = (json.loads(container.metadata[name]) for name in ("prompt", "workflow"))
    assert form == ui_form("wan22_flf2v", prompt), "dropped on the editor, it restores the whole workflow"
    assert len(frames) == 17
    assert frames[0].shape == (128, 96, 3)
    image = fetch(gateway, output["image"])
    assert (image.status, image.headers["Content-Type"]) == (200, "image/png")
    assert image.headers["X-Content-Type-Options"] == "nosniff"
    (tmp_path / "f.png").write_bytes(image.content)
    with av.open(str(tmp_path / "f.png")) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert (first == frames[0]).all()


def test_ranges_etags_and_head(gateway, done):
    url = done[0]["output"]["video"]
    whole = fetch(gateway, url)
    part = fetch(gateway, url, Range="bytes=10-19")
    assert (part.status, part.content) == (206, whole.content[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole.content)}"
    beyond = fetch(gateway, url, Range="bytes=999999999-")
    assert beyond.status == 416
    assert fetch(gateway, url, **{"If-None-Match": whole.headers["ETag"]}).status == 304
    head = fetch(gateway, url, "HEAD")
    assert (head.status, head.content) == (200, b"")
    assert int(head.headers["Content-Length"]) == len(whole.content)


def test_a_changed_address_is_403(gateway, done):
    url = done[0]["output"]["video"]
    for changed in (
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.replace("video.mp4", "frame0.png"),
        url.split("?")[0],
    ):
        answer = fetch(gateway, changed)
        assert (answer.status, answer.code) == (403, 403001)


def test_a_failed_request_reads_completed_and_failed_with_a_reason(gateway, comfy_server):
    (comfy_server.base_dir / "input" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    request_id = gateway.submit(SUBMIT_DEMO, **FAST, **{"68_image": "broken.png", "62_image": "end.jpg"})
    assert gateway.wait(request_id)["status"] == "completed"
    result = gateway.result(request_id)
    assert result["status"] == "failed"
    assert result["error"]
    assert "output" not in result


def test_a_name_that_comfyui_does_not_have_is_422(gateway):
    answer = gateway.post(SUBMIT_DEMO, {**json.loads(CURL_BODY), "68_image": "nobody.png"})
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"] == ["body", "68_image"]


@pytest.mark.smoke
def test_a_running_request_is_cancelled_and_others_prompts_are_not(gateway, comfy_server):
    running = gateway.submit(SUBMIT_DEMO, **{**FAST, "57_steps": 20, "67_length": 33}, **IMAGES, **{"57_noise_seed": 8})
    gateway.wait(running, "in_progress", "completed")

    async def use(client):
        other = await queue_as_someone_else(client, slow_graph(steps=5))
        answer = gateway.cancel(running)
        await wait_until(finished(client, other))
        return answer, await client.history(other)

    answer, other = with_client(comfy_server, use)
    assert (answer.status, answer.json["outcome"]) == (202, "cancelled")
    assert gateway.wait(running)["status"] == "cancelled"
    assert gateway.result(running)["status"] == "cancelled"
    assert other["status"]["status_str"] == "success"


def test_a_model_whose_files_are_missing_is_refused_when_it_is_submitted(gateway):
    """The bundled models are not on this ComfyUI; the demo's are."""
    before = gateway.get("/metrics").content
    answer = gateway.post(SUBMIT, {**json.loads(CURL_BODY), **IMAGES})
    assert (answer.status, answer.code) == (503, 503002)
    assert "was not queued" in answer.json["error_message"]
    files = ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors")
    files += ("umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors")
    missing = answer.json["detail"]
    assert len(missing) == 4
    for file in files:
        assert any(text.startswith(f"The model file {file} is missing") for text in missing), file
        assert file in answer.json["error_message"]
    jobs = [line for line in before.splitlines() if line.startswith(b"wan_flf2v_requests{")]
    assert set(jobs) <= set(gateway.get("/metrics").content.splitlines()), "nothing was queued"
    about = listed(gateway)
    assert (about["available"], about["reason"]) == (False, " ".join(missing))
    demo = listed(gateway, DEMO.model_id)
    assert demo["available"]
    assert "reason" not in demo


def test_readiness_is_that_of_the_service_and_not_of_one_model(gateway, new_gateway, comfy_server):
    assert gateway.get("/readyz").json == {"ready": True, "status": "ready", "problems": []}
    alone = new_gateway(comfy_server.url).get("/readyz")
    assert alone.status == 503
    (problem,) = alone.json["problems"]
    assert problem.startswith("No model of this API can run")
    assert "safetensors" not in problem


def test_the_pages_curl_example_queues_exactly_the_bundled_graph(own_comfy_server, tmp_path):
    host, graph = own_comfy_server, load_graph("wan22_flf2v")

    def put_models():
        for folder, nodes in MODEL_FILES.items():
            for node in nodes:
                name = next(value for value in graph[node]["inputs"].values() if str(value).endswith(".safetensors"))
                write_sparse(host.base_dir / "models" / folder / name, 8)

    for number, image in ((1, "start.jpg"), (2, "end.jpg")):
        name = f"Runcomfy_Example_1259_{number}.png"
        shutil.copy(REPO / "demo" / "images" / image, host.base_dir / "input" / name)

    async def use(client):
        other = await queue_as_someone_else(client, slow_graph(steps=1000))
        await wait_until(runs(client, other))
        with Gateway(tmp_path, host.url) as gateway:
            assert gateway.post(SUBMIT, CURL_BODY).code == 503002
            put_models()

            async def available():
                return listed(gateway)["available"]

            await wait_until(available)
            assert gateway.get("/readyz").json == {"ready": True, "status": "ready", "problems": []}
            command = ["curl", "--silent", "--request", "POST", "--url", gateway.url + SUBMIT]
            command += ["--header", "Content-Type: application/json"]
            command += ["--header", f"Authorization: Bearer {gateway.token}", "--data", CURL_BODY]
            if shutil.which("curl"):
                answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            else:
                answer = gateway.post(SUBMIT, CURL_BODY).json
            request_id = answer["request_id"]

            async def queued():
                return (await client.queue()).position(request_id) == 1

            await wait_until(queued)
            pending = json.loads(call(host.url, "GET", "/queue").content)["queue_pending"]
            assert gateway.cancel(request_id).json["outcome"] == "cancelled"
            assert gateway.wait(request_id)["status"] == "cancelled"

            async def gone():
                return (await client.queue()).position(request_id) is None

            await wait_until(gone)
            assert (await client.queue()).position(other) == 0
        await client.cancel(other)
        return pending, request_id

    ((_, prompt_id, prompt, *_),), request_id = with_client(host, use)
    assert prompt_id == request_id
    graph["73"]["inputs"]["filename_prefix"] = f"wan_flf2v_api/{request_id}"
    for number, node in ((1, "68"), (2, "62")):  # the workflow has a picture that every ComfyUI has
        graph[node]["inputs"]["image"] = f"Runcomfy_Example_1259_{number}.png"
    assert prompt == graph


def test_the_command_line_against_this_api(gateway, tmp_path):
    base = [sys.executable, "-I", "-m", "wan_flf2v"]
    environment = {**os.environ, "RUNCOMFY_MODEL_API_BASE": f"{gateway.url}/v1", "RUNCOMFY_API_TOKEN": gateway.token}

    def run(*arguments, code=0):
        done = subprocess.run(
            [*base, *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout.strip()

    settings = [word for key, value in FAST.items() for word in ("--set", f"{key}={value}")]
    images = ["--start", str(REPO / "demo" / "images" / "start.jpg"), "--end", "end.jpg", "--prompt", "a puppy"]
    model = ["--model", "demo/tiny-wan/first-last-frame"]
    saved = run("submit", *images, *model, *settings, "--set", "57_noise_seed=9", "--wait", "-o", "video.mp4")
    assert saved == "video.mp4"
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 17
    request_id = run("submit", *images, *model, *settings, "--set", "57_noise_seed=10")
    assert str(uuid.UUID(request_id)) == request_id
    assert json.loads(run("status", request_id))["request_id"] == request_id
    assert run("watch", request_id).startswith(f"{gateway.url}/v1/results/{request_id}/video.mp4?")
    assert json.loads(run("result", request_id))["status"] == "succeeded"
    assert json.loads(run("cancel", request_id, code=1))["outcome"] == "not_cancellable"
    assert run("status", str(uuid.uuid4()), code=1) == ""
    (tmp_path / "token").write_text("wf_wrong\n")
    assert run("status", request_id, "--token-file", "token", code=1) == ""
    assert run("submit", *images, "--set", "57_steps=99", code=2) == ""


def test_a_shutdown_leaves_the_running_request_to_comfyui(comfy_server, tmp_path):
    """The next gateway on this store brings it to its end; it runs once."""
    gateway = Gateway(tmp_path, comfy_server.url, "--demo")
    with gateway:
        body = {**FAST, "57_steps": 12, "67_length": 33}
        request_id = gateway.submit(SUBMIT_DEMO, **body, **IMAGES, **{"57_noise_seed": 21})
        gateway.wait(request_id, "in_progress")
    assert gateway.process.returncode == 0, "SIGTERM is a proper end"
    assert "Traceback" not in gateway.log_text()
    with gateway:
        gateway.wait(request_id)
        assert gateway.result(request_id)["status"] == "succeeded"
        recovered = [
            line for line in gateway.log_text().splitlines() if f"job recovered request_id={request_id}" in line
        ]
        assert len(recovered) == 1 and recovered[0].endswith(" found=known")
    assert len(list((comfy_server.base_dir / "output" / "wan_flf2v_api").glob(f"{request_id}*"))) == 1


def test_cancel_frees_comfyui_for_the_next_request(gateway):
    first = gateway.submit(SUBMIT_DEMO, **{**FAST, "57_steps": 20, "67_length": 33}, **IMAGES, **{"57_noise_seed": 11})
    second = gateway.submit(SUBMIT_DEMO, **FAST, **IMAGES, **{"57_noise_seed": 12})
    gateway.wait(first, "in_progress", "completed")
    gateway.cancel(first)
    gateway.wait(second)
    assert gateway.status(first)["status"] == "cancelled"
    assert gateway.result(second)["status"] == "succeeded"
