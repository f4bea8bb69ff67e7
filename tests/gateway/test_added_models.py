"""Models that an operator adds: from the command line to the video, on a real gateway and a real ComfyUI."""

import io
import json
import uuid
from dataclasses import replace
from urllib.parse import urlsplit

import av
import pytest
from PIL import Image
from support.client_runs import slow_graph
from support.expert_graphs import write_lora
from support.gateway_process import call
from support.stores import nats_url
from typer.testing import CliRunner
from wan_flf2v.__main__ import app
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.contract.parameters import DEMO, FOUR_STEPS, KEYFRAMES, LOOP, MODELS, SEGMENTS
from wan_flf2v.contract.workflow import graph_for
from wan_flf2v.gateway.jobs.records import Submission

SMALL = {"71_width": 96, "71_height": 128, "67_length": 17, "57_steps": 2}
IMAGES = {"68_image": "start.jpg", "62_image": "end.jpg"}
FILM, STILL = "/v1/models/mine/film", "/v1/models/still"


@pytest.fixture(scope="module")
def gateway(new_gateway, comfy_server):
    """A gateway that began before the models were added."""
    return new_gateway(comfy_server.url)


@pytest.fixture(scope="module")
def model(gateway, comfy_server):
    """Return a function that runs ``wan-flf2v model`` on the gateway's store."""

    def run(command, *arguments):
        nats = ["--nats", url] if (url := nats_url(gateway.data)) else []
        server = ["--server", comfy_server.url] if command == "add" else []
        given = ["model", command, *map(str, arguments), "--data", str(gateway.data), *nats, *server]
        return CliRunner().invoke(app, given, env={"COLUMNS": "200"})

    return run


@pytest.fixture(scope="module")
def film(tmp_path_factory, model):
    """The demo's workflow, small, as the model mine/film."""
    path = tmp_path_factory.mktemp("workflow") / "film.json"
    graph = graph_for(DEMO)
    for key, value in {**SMALL, **IMAGES, "57_cfg": 1.0, "6_text": "circle"}.items():
        node_id, _, name = key.partition("_")
        graph[node_id]["inputs"][name] = value
    path.write_text(json.dumps(graph))
    added = model("add", "mine/film", path)
    assert added.exit_code == 0, added.output
    assert "57_noise_seed" in added.stdout
    assert "37_unet_name" not in added.stdout
    assert "--expose chooses" in added.stderr
    return path


@pytest.fixture(scope="module")
def still(tmp_path_factory, model):
    """A workflow that makes an image, as the model still; a preview of another one comes first."""
    path = tmp_path_factory.mktemp("workflow") / "still.json"
    size = {"width": 16, "height": 16, "batch_size": 1, "color": 0}
    other = {
        "4": {"class_type": "EmptyImage", "inputs": size},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }
    path.write_text(json.dumps({**other, **slow_graph()}))
    added = model("add", "still", path, "--expose", "1_width, 1_height", "--expose", "1_color")
    assert added.exit_code == 0, added.output
    return path


def fetch(gateway, url):
    parts = urlsplit(url)
    return call(gateway.url, "GET", f"{parts.path}?{parts.query}")


def test_it_is_listed_with_its_schema(gateway, film):
    listed = {one["model_id"]: one for one in gateway.get("/v1/models").json["models"]}
    assert list(listed)[-1] == "mine/film"
    assert listed["mine/film"]["available"]
    assert listed["mine/film"]["categories"] == ["image-to-video"]
    schema = gateway.get(FILM).json["input_schema"]
    assert schema["required"] == ["62_image", "68_image"]
    steps = schema["properties"]["57_steps"]
    assert (steps["type"], steps["default"], steps["minimum"], steps["maximum"]) == ("integer", 2, 1, 10000)
    assert "euler" in schema["properties"]["57_sampler_name"]["enum"]
    document = gateway.get("/v1/openapi.json").json
    post = document["paths"][FILM]["post"]
    reference = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    real = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
    assert real["properties"]["57_cfg"]["type"] == "number"
    assert real["properties"]["68_image"]["format"] == "image-reference"
    operations = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(operations) == len(set(operations))


def test_bad_values_are_refused_as_those_of_the_hosted_model_are(gateway, film):
    bad = {"57_steps": 0, "57_sampler_name": "eulr", "37_unet_name": "x.safetensors", "68_image": "start.jpg"}
    answer = gateway.post(FILM, bad)
    assert (answer.status, answer.code) == (422, 422001)
    said = {entry["loc"][1]: (entry["type"], entry["msg"]) for entry in answer.json["detail"]}
    assert said["57_steps"][1].startswith("57_steps must be an integer from 1 to 10000, got 0. Values are never")
    assert said["57_sampler_name"][1].endswith('got "eulr". Did you mean "euler"?')
    assert said["37_unet_name"][1].startswith('"37_unet_name" is not a parameter.')
    assert said["62_image"] == ("missing", "62_image (Image (End image)) is missing. Give the name of an image.")
    images = {"68_image": "start.jpg", "63_image": "start.jpg", "62_image": "end.jpg"}
    behind = gateway.post("/v1/models/wan-flf2v/keyframes", {"6_text": "x", **images, "61_frames": 100})
    assert (behind.status, behind.code, behind.json["detail"][0]["loc"][1]) == (422, 422001, "61_frames")
    near = gateway.post("/v1/models/mine/films", {})
    assert (near.status, near.json["error_message"]) == (
        404, "There is no such model here. Did you mean mine/film?"
    )  # fmt: skip


def test_a_request_becomes_a_video_and_outlives_its_model(gateway, film, model, monkeypatch, tmp_path):
    monkeypatch.setenv("RUNCOMFY_MODEL_API_BASE", f"{gateway.url}/v1")
    monkeypatch.setenv("RUNCOMFY_API_TOKEN", gateway.token)
    image = REPO / "demo" / "images" / "start.jpg"
    options = ["--model", "mine/film", "--start", str(image), "--set", "62_image=end.jpg", "--set", "57_noise_seed=11"]
    done = CliRunner().invoke(app, ["submit", *options, "--wait", "-o", str(tmp_path / "film.mp4")])
    assert done.exit_code == 0, done.output
    with av.open(str(tmp_path / "film.mp4")) as container:
        prompt = json.loads(container.metadata["prompt"])
        assert container.streams.video[0].frames == 17
    assert prompt["57"]["inputs"]["noise_seed"] == 11
    (request,) = gateway.get("/v1/requests").json["requests"]
    assert (request["model_id"], request["status"]) == ("mine/film", "succeeded")
    assert request["input"]["6_text"] == "circle"
    assert not request["input"].keys() & IMAGES.keys()
    assert model("remove", "mine/film").exit_code == 0
    assert gateway.get(FILM).status == gateway.post(FILM, IMAGES).status == 404
    assert len(gateway.get("/v1/requests").json["requests"]) == 1
    result = gateway.result(request["request_id"])
    assert (result["status"], result["seed"]) == ("succeeded", 11)
    first = Image.open(io.BytesIO(fetch(gateway, result["output"]["image"]).content))
    assert first.size == (96, 128)


def test_an_image_is_a_result_too(gateway, still, monkeypatch, tmp_path):
    request_id = gateway.post(STILL, {"1_width": 48}).json["request_id"]
    gateway.wait(request_id)
    result = gateway.result(request_id)
    assert result["status"] == "succeeded", result
    assert result["output"].keys() == {"image", "images"}
    assert result["seed"] is None
    answer = fetch(gateway, result["output"]["image"])
    assert answer.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (48, 64)
    monkeypatch.setenv("RUNCOMFY_MODEL_API_BASE", f"{gateway.url}/v1")
    monkeypatch.setenv("RUNCOMFY_API_TOKEN", gateway.token)
    monkeypatch.chdir(tmp_path)
    watched = CliRunner().invoke(app, ["watch", request_id])
    assert urlsplit(watched.stdout).path.endswith(f"/v1/results/{request_id}/image.png"), watched.output
    waited = CliRunner().invoke(app, ["submit", "--model", "still", "--set", "1_width=32", "--wait"])
    (saved,) = tmp_path.iterdir()
    assert (waited.stdout, saved.suffix) == (f"{saved.name}\n", ".png"), waited.output
    with Image.open(saved) as image:
        assert image.size == (32, 64)
    assert gateway.get(STILL).json["output_schema"]["output"]["properties"].keys() == {"image", "images"}


@pytest.mark.parametrize("now_there", [(), (replace(DEMO, model_id="gone", graph={}),)])
def test_what_waited_for_a_model_that_is_gone_fails_with_words(api, now_there):
    """It was removed, or another one was added under its name."""

    async def use(_, dispatcher):
        for model in now_there:
            await api.store.add_model(model)
        job = await api.store.submit(Submission(str(uuid.uuid4()), "test", "gone", {"1_width": 48}, {}))
        dispatcher.poke()
        return await api.until(job)

    ended = api.run(use)
    assert ended.status == "failed"
    assert ended.error.startswith("The model gone was removed from this API, or replaced, before this request had run.")


def test_removing_says_what_waits(new_gateway, comfy_server, still):
    down = new_gateway()
    options = ["--data", str(down.data), *(["--nats", url] if (url := nats_url(down.data)) else [])]
    added = CliRunner().invoke(app, ["model", "add", "gone", str(still), *options, "--server", comfy_server.url])
    assert added.exit_code == 0, added.output
    assert down.post("/v1/models/gone", {}).status == 200
    removed = CliRunner().invoke(app, ["model", "remove", "gone", *options])
    assert removed.stderr.splitlines() == ["The model gone is removed. Requests that wait for it will fail: 1."]


def test_a_model_that_lacks_a_file_says_so(gateway, model):
    added = model("add", "big", "wan22_flf2v_4_steps_lora")
    assert added.exit_code == 0, added.output
    missing = "The model file wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors is missing"
    assert f"It cannot run yet. {missing}" in added.stderr
    answer = gateway.post("/v1/models/big", {"68_image": "start.jpg", "62_image": "end.jpg"})
    assert (answer.status, answer.code) == (503, 503002)
    assert missing in answer.json["error_message"]
    assert not gateway.get("/v1/models/big").json["available"]


def test_the_commands_say_what_is_wrong(model, still, tmp_path):
    again = model("add", "still", still)
    assert again.exit_code == 2
    assert "Choose another name, or remove it first: wan-flf2v model remove still" in again.stderr
    for name in ("", "a b", "../x", "/x", "x/", "categories", "x" * 101, DEMO.model_id):
        assert model("add", name, still).exit_code == 2, name
    bad = model("add", "bad", still, "--expose", "1_widht,9_x,3_images")
    assert bad.stderr.splitlines() == [
        f'--expose: {still} has no input "1_widht". Did you mean 1_width? `wan-flf2v params --workflow {still}` lists '
        "them all.",
        f'--expose: {still} has no input "9_x". `wan-flf2v params --workflow {still}` lists them all.',
        '--expose: 3_images comes from node 2 "Slow", so it has no value to set.',
    ]
    assert model("add", "bad", tmp_path / "nothing.json").stderr.startswith("The workflow is ")
    unknown = model("remove", "stil")
    assert (unknown.exit_code, "`wan-flf2v model list` shows those there are." in unknown.stderr) == (2, True)
    listed = model("list").stdout  # a narrow terminal breaks the line
    assert all(key in listed for key in ("1_width", "1_height", "1_color"))
    assert "an integer" in model("show", "still").stdout
    assert "6_text" in model("show", DEMO.model_id).stdout


def test_each_expert_can_have_a_lora_whose_file_only_the_operator_exposes(gateway, model, comfy_server):
    folder = comfy_server.base_dir / "models" / "loras"
    folder.mkdir(exist_ok=True)
    lora = folder / "added_model_test.safetensors"
    lora.touch()
    try:
        given = ("--lora-high", f"{lora.name}:0.5", "--lora-low", lora.name)
        assert model("add", "two-loras", "wan22_flf2v", *given).exit_code == 0
        keys = ("74_strength_model", "75_lora_name", "57_steps")
        assert model("add", "chosen-lora", "wan22_flf2v", *given, "--expose", ",".join(keys)).exit_code == 0
        assert model("add", "loop-loras", "wan22_flf2v_loop", *given).exit_code == 0
        unknown = model("add", "no-lora", "wan22_flf2v", "--lora-low", "none.safetensors")
    finally:
        lora.unlink()
    assert (unknown.exit_code, "which this ComfyUI does not offer" in unknown.stderr) == (2, True)
    properties = gateway.get("/v1/models/two-loras").json["input_schema"]["properties"]
    assert [properties[f"{node_id}_strength_model"]["default"] for node_id in ("74", "75")] == [0.5, 1.0]
    assert not [key for key in properties if key.endswith(("_lora_name", "_unet_name"))]
    of_template = gateway.get("/v1/models/loop-loras").json["input_schema"]["properties"]
    assert [of_template[f"{node_id}_strength_model"]["default"] for node_id in ("91", "92")] == [0.5, 1.0]
    properties = gateway.get("/v1/models/chosen-lora").json["input_schema"]["properties"]
    assert set(properties) == set(keys)
    assert lora.name in properties["75_lora_name"]["enum"]


@pytest.mark.parametrize("bundled", [FOUR_STEPS, KEYFRAMES, LOOP, SEGMENTS], ids=lambda model: model.model_id)
def test_the_bundled_workflows_run_as_models(api, bundled, monkeypatch, comfy_server):
    """On the demo's models; with tiny LoRAs in the loaders or slots, and 4 steps behind a prelude."""
    loaders, lora = dict(DEMO.loaders), {"lora_name": write_lora(comfy_server)}
    if bundled is FOUR_STEPS:
        inputs = {**lora, "strength_model": 1.0}
        loaders |= {"91": {"inputs": {**inputs, "model": ["37", 0]}}, "92": {"inputs": {**inputs, "model": ["56", 0]}}}
    model = replace(bundled, loaders=loaders, slots=dict.fromkeys(bundled.slots, lora))
    monkeypatch.setitem(MODELS, bundled.model_id, model)
    values = small_values(bundled)
    values |= {"91_strength_model": 0.5, "92_strength_model": 2.0}
    if bundled is FOUR_STEPS:
        values |= {"57_steps": 4, "57_prelude": "steps", "57_prelude_steps": 1}
    ended = run_on(api, bundled.model_id, values)
    assert ended.status == "succeeded", ended.error
    frames, metadata = read_result(api, ended)
    made = {FOUR_STEPS: lambda length: length, KEYFRAMES: lambda length: length, LOOP: lambda length: length - 1}
    made[SEGMENTS] = lambda length: 3 * (length - 1) + 1
    assert len(frames) == made[bundled](9)
    if text := bundled.parameter("67_length").description:
        assert text.endswith(f": 81 makes {made[bundled](81)}.")
    form, prompt = json.loads(metadata["workflow"]), json.loads(metadata["prompt"])
    assert form["nodes"], "dropped on the editor, it restores the workflow"
    assert not [node["id"] for node in form["nodes"] if node["mode"]], "with the LoRAs switched on"
    assert [prompt["54"]["inputs"]["model"], prompt["57"]["inputs"]["model_low_noise"]] == [["91", 0], ["92", 0]]
    assert [prompt[node_id]["inputs"]["strength_model"] for node_id in ("91", "92")] == [0.5, 2.0]


def test_slots_that_are_not_filled_change_nothing(api, monkeypatch, comfy_server):
    """Each of them changes the video; without both it is that of the workflow as it is, and needs no file."""
    slots = {node_id: {"lora_name": write_lora(comfy_server)} for node_id in LOOP.slots}
    bare = tuple(one for one in LOOP.parameters if one.inputs[0].node_id not in slots)
    models = {
        "slots": replace(LOOP, loaders=DEMO.loaders, slots=slots),
        "bare": replace(LOOP, loaders=DEMO.loaders, slots={}, parameters=bare),
        "none": replace(LOOP, loaders=DEMO.loaders),
    }
    for model_id, model in models.items():
        monkeypatch.setitem(MODELS, model_id, replace(model, model_id=model_id))
    small = {**small_values(LOOP), "57_steps": 4, "54_shift": 5.0}  # both experts have steps

    def frames(model_id, **strengths):
        ended = run_on(api, model_id, {**small, **strengths})
        assert ended.status == "succeeded", ended.error
        return b"".join(read_result(api, ended)[0])

    off = {"91_strength_model": 0.0, "92_strength_model": 0.0}
    bare = frames("bare")
    assert frames("slots", **off) == frames("none", **off) == bare
    one, other = (frames("slots", **{**off, key: 2.0}) for key in off)
    assert len({bare, one, other}) == 3
    ended = run_on(api, "none", {**small, **off, "92_strength_model": 1.0})
    (file,) = LOOP.slots["92"].values()
    assert ended.status == "failed"
    assert f'needs the model file "{file}", which this ComfyUI does not have.' in ended.error


def small_values(model):
    keys = {parameter.key for parameter in model.parameters}
    given = {key: "start.jpg" for key in keys if key.endswith("_image")}
    texts = {"6_text": "circle", "60_prompts": "circle", "61_frames": 4}
    values = {**given, **{key: text for key, text in texts.items() if key in keys}}
    return values | {"71_widthx71_height": "96x128 (3:4)", "67_length": 9, "57_steps": 1, "57_cfg": 1.0}


def run_on(api, model_id, values):
    """Return the job of such a request, as it ended."""

    async def use(_, dispatcher):
        job = await api.store.submit(Submission(str(uuid.uuid4()), "test", model_id, values, {}))
        dispatcher.poke()
        return await api.until(job)

    return api.run(use)


def read_result(api, job):
    """Return the video's frames, as bytes, and its metadata."""
    with av.open(str(api.settings.data / "results" / job.id / "video.mp4")) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)], dict(container.metadata)
