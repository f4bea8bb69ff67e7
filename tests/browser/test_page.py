"""The API's page: a whole request, what interrupts it, hostile texts, and whether everybody can use it."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import av
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright._impl._driver import compute_driver_executable
from support.gateway_process import BODY, SUBMIT_DEMO, call
from support.playground import IMAGES, Busy, Playground
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.contract.parameters import DEMO, HOSTED
from wan_flf2v.contract.workflow import graph_for
from wan_flf2v.demo.base import copy_trained_models

EVIL = '<img src=x onerror="window.hacked=1">'
SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT = """() => [...document.querySelectorAll(".label code")]
    .filter(code => code.scrollWidth > code.clientWidth).map(code => code.textContent)"""
DROP = """async ([selector, name]) => {
    const canvas = new OffscreenCanvas(64, 64)
    canvas.getContext("2d").fillRect(0, 0, 64, 64)
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File([await canvas.convertToBlob()], name, {type: "image/png"}))
    const drop = kind => document.querySelector(selector).dispatchEvent(
        new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true})) ? "left to the browser" : "ours"
    return {dragover: drop("dragover"), drop: drop("drop")}
}"""
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
STORE_DOWN = {"error_code": 503001, "error_message": "The API cannot use its store.", "detail": None}
LOOSE = "script-src 'self' 'unsafe-inline'"


@pytest.fixture(scope="module")
def comfyui(new_comfy_server):
    """A ComfyUI with --disable-api-nodes whose own API offers the demo's model too."""
    host = new_comfy_server()
    folder = host.base_dir / "user" / "wan_flf2v"
    folder.mkdir(parents=True)
    (folder / "api.json").write_text(json.dumps({"demo": True}))
    with host:
        yield host


@pytest.fixture(scope="module")
def gateway(comfyui, new_gateway):
    return new_gateway(comfyui.url, demo=True)


@pytest.fixture(scope="module")
def idle_gateway(new_gateway):
    """A gateway whose ComfyUI is down, so that its requests wait."""
    return new_gateway(demo=True)


@pytest.fixture
def token(gateway):
    """A token that has no request yet."""
    return gateway.new_token(f"t{os.urandom(4).hex()}")


@pytest.fixture
def idle_token(idle_gateway):
    return idle_gateway.new_token(f"t{os.urandom(4).hex()}")


@pytest.fixture
def new_playground(browser):
    """Return a function that makes a page in a new browser context; at the end nothing may have failed in it."""
    made = []

    def new(url):
        made.append(Playground(browser.new_context(viewport=DESK, reduced_motion="reduce").new_page(), url))
        return made[-1]

    yield new
    assert [playground.faults for playground in made] == [[]] * len(made)
    for playground in made:
        playground.page.context.close()


@pytest.fixture
def playground(new_playground, gateway):
    return new_playground(gateway.url)


@pytest.fixture
def idle(new_playground, idle_gateway):
    """The page of the gateway whose ComfyUI is down."""
    return new_playground(idle_gateway.url)


def in_store(gateway, work):
    """Do something with the gateway's store; in a thread, since Playwright has this one's event loop."""

    def do():
        with gateway.store() as store:
            return work(store)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(do).result()


def requests_of(gateway, token):
    return gateway.get("/v1/requests", token=token).json["requests"]


def turned_photograph(folder):
    """Save a photograph that lies on its side, with the EXIF orientation that stands it up."""
    path = folder / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(IMAGES / "start.jpg").resize((120, 60)).save(path, exif=exif)
    return path


@pytest.mark.smoke
def test_a_request_from_its_images_to_its_video(playground, gateway, token, tmp_path):
    page = playground.page
    playground.open().enter_token("wrong")
    page.wait_for_function("() => document.querySelector('#token-error').textContent.includes('unknown')")
    playground.enter_token(token)
    page.locator("#requests-card").wait_for()
    playground.fill(start=turned_photograph(tmp_path), **{"57_steps": "8", "57_noise_seed": str(2**64 - 1)})
    shown = page.locator(".zone img").first
    shape = shown.evaluate("image => [image.naturalWidth, image.naturalHeight, image.width / image.height]")
    assert shape[:2] == [60, 120], "as its orientation says"
    assert shape[2] == pytest.approx(96 / 128, abs=0.02), "cropped to the size that is chosen"
    playground.run()
    page.locator("#preview").wait_for()
    assert page.evaluate("document.querySelector('#preview').src.startsWith('data:image/jpeg')")
    playground.wait_for_video()
    assert page.evaluate("document.querySelector('#video').currentSrc").startswith(f"{gateway.url}/v1/results/")
    page.wait_for_function("() => document.querySelector('#video').currentTime > 0")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    with av.open(str(download.value.path())) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (96, 128)
    assert str(2**64 - 1) in playground.text("#facts"), "not rounded"
    (row,) = page.locator("#requests li").all()
    assert "circle" in row.inner_text() and "succeeded" in row.inner_text()
    assert not page.evaluate("sessionStorage.length + localStorage.length")
    assert serious(page) == ([], 0)


@pytest.mark.smoke
def test_cancel_ends_a_request_that_waits_in_comfyui(playground, gateway, token, comfyui):
    playground.open(token).fill_names()
    with Busy(comfyui.url):
        playground.run()
        playground.wait_for_state("running")
        playground.page.locator("#cancel").click()
        playground.wait_for_state("cancelled")
    playground.wait_for_text("#note", "The request was cancelled.")
    assert [request["status"] for request in requests_of(gateway, token)] == ["cancelled"]


def test_a_reload_finds_the_request_again(playground, token, comfyui):
    """By the address; and without it, as the one that has not ended."""
    playground.open(token, keep=True).fill_names()
    with Busy(comfyui.url):
        playground.run()
        playground.wait_for_state("running")
        request_id = playground.request_id
        playground.page.reload()
        playground.wait_for_state("running")
        playground.open()
        playground.wait_for_state("running")
        assert playground.request_id == request_id
        playground.page.locator("#cancel").click()
        playground.wait_for_state("cancelled")


class TestNetwork:
    """What is cut is tried again, and a request is never sent twice."""

    def one_request_waits(self, idle, idle_gateway, token):
        idle.wait_for_text("#note", "Waiting for ComfyUI, which does not respond")
        assert not idle.page.locator("#countdown").is_visible()
        assert [request["request_id"] for request in requests_of(idle_gateway, token)] == [idle.request_id]

    def test_cut_before_the_submit(self, idle, idle_gateway, idle_token):
        idle.open(idle_token).fill()
        context = idle.page.context
        context.set_offline(True)
        idle.run()
        idle.page.locator("#countdown").wait_for()
        assert "connection" in idle.text("#countdown-reason")
        context.set_offline(False)
        self.one_request_waits(idle, idle_gateway, idle_token)

    def test_cut_before_the_response_to_the_submit(self, idle, idle_gateway, idle_token):
        lost = []

        def lose_the_response(route):
            if route.request.method == "POST" and not lost:
                lost.append(route.fetch().json())
                route.abort()
            else:
                route.continue_()

        idle.page.route("**/v1/models/**", lose_the_response)
        idle.open(idle_token).fill_names()
        idle.run()
        self.one_request_waits(idle, idle_gateway, idle_token)
        assert lost[0]["request_id"] == idle.request_id

    def test_cut_while_it_runs(self, playground, token, comfyui):
        playground.open(token).fill_names()
        page = playground.page
        with Busy(comfyui.url):
            playground.run()
            playground.wait_for_state("running")
            page.context.set_offline(True)
            page.locator("#countdown").wait_for()
            page.context.set_offline(False)
            page.locator("#countdown").wait_for(state="hidden")
            page.locator("#cancel").click()
            playground.wait_for_state("cancelled")

    def test_cut_while_the_result_comes(self, playground, gateway, token):
        cut = {"result": 0, "video.mp4": 0}

        def cut_once(route):
            name = route.request.url.partition("?")[0].rpartition("/")[2]
            cut[name] += 1
            route.abort() if cut[name] == 1 else route.continue_()

        playground.page.route("**/result", cut_once)
        playground.page.route("**/video.mp4*", cut_once)
        playground.open(token).fill_names()
        playground.run()
        playground.wait_for_video()
        assert [request["status"] for request in requests_of(gateway, token)] == ["succeeded"]
        assert not playground.page.locator("#countdown").is_visible()
        assert min(cut.values()) > 1

    def test_too_many_requests_count_down(self, idle, idle_gateway):
        page = idle.open(idle_gateway.new_token("full", queue_limit=0)).page
        idle.fill_names()
        idle.run()
        page.locator("#countdown").wait_for()
        assert "already has 0 requests waiting" in idle.text("#countdown-reason")
        page.wait_for_function("() => +document.querySelector('#countdown-seconds').textContent < 30")
        page.get_by_role("button", name="Stop").click()
        page.locator("#countdown").wait_for(state="hidden")
        assert "Stopped" in idle.text("#note")

    def test_what_a_person_must_mend_is_said_once(self, playground, gateway, token):
        """This ComfyUI has the demo's model files alone."""
        playground.open(token).fill_names()
        playground.page.get_by_label("Model").select_option(HOSTED.model_id)  # the images stay
        playground.run()
        playground.wait_for_text("#result-error", "This model cannot run here now, so the request was not queued.")
        assert not playground.page.locator("#countdown").is_visible()
        assert requests_of(gateway, token) == []

    def test_the_pause_is_as_long_as_the_store_says(self, idle, idle_token):
        said = {"status": 503, "json": STORE_DOWN, "headers": {"Retry-After": "3000"}}
        idle.page.route("**/v1/models/demo/**", lambda route: route.fulfill(**said))
        idle.open(idle_token).fill_names()
        idle.run()
        idle.page.locator("#countdown").wait_for()
        assert int(idle.text("#countdown-seconds")) > 60

    def test_stop_ends_an_attempt_that_gets_no_response(self, idle, idle_token):
        tries = []

        def lose_the_first(route):
            tries.append(route)
            if len(tries) == 1:
                route.abort()

        idle.page.route("**/v1/models/demo/**", lose_the_first)
        idle.open(idle_token).fill_names()
        idle.run()
        idle.page.get_by_role("button", name="Try now").click()
        while len(tries) < 2:
            idle.page.wait_for_timeout(50)
        idle.page.get_by_role("button", name="Stop").click()
        idle.wait_for_text("#note", "Stopped")
        assert not idle.page.locator("#countdown").is_visible()

    def test_a_form_that_cannot_be_loaded(self, idle):
        idle.page.route("**/v1/openapi.json", lambda route: route.abort())
        idle.page.goto(f"{idle.url}/v1/")
        idle.page.get_by_role("button", name="Stop").click()
        idle.wait_for_text("#result-error", "The form could not be loaded")
        assert not idle.page.get_by_role("button", name="Run", exact=True).is_visible()

    def test_a_store_that_is_down_is_tried_again(self, idle, idle_gateway, idle_token):
        answers = [lambda route: route.fulfill(status=503, json=STORE_DOWN)]
        idle.page.route("**/v1/models/demo/**", lambda route: answers.pop()(route) if answers else route.continue_())
        idle.open(idle_token).fill_names()
        idle.run()
        idle.page.locator("#countdown").wait_for()
        idle.page.get_by_role("button", name="Try now").click()
        self.one_request_waits(idle, idle_gateway, idle_token)


def test_errors_stand_below_their_fields(idle, idle_gateway, tmp_path):
    page = idle.open(idle_gateway.token).page
    idle.run()
    assert "missing" in idle.text("#field-68_image-error")
    (tmp_path / "no.png").write_text("no image")
    idle.fill(start=tmp_path / "no.png")
    idle.run()
    page.wait_for_function("() => document.querySelector('#field-68_image-error').textContent.startsWith('file: ')")
    too_large = {"error_code": 413001, "error_message": "The body is larger than 50 MiB."}
    page.route("**/v1/files", lambda route: route.fulfill(status=413, json=too_large))
    idle.fill(start=tmp_path / "no.png")
    idle.run()
    page.wait_for_function("() => document.querySelector('#field-68_image-error').textContent.includes('50 MiB')")
    idle.fill_names(**{"57_steps": "99", "57_cfg": "0"})
    idle.run()
    page.wait_for_function("() => document.querySelector('#field-57_steps-error').textContent")
    assert "from 1 to 20, got 99" in idle.text("#field-57_steps-error")
    assert "from 0.6 to 4" in idle.text("#field-57_cfg-error")
    assert page.evaluate("document.activeElement.id") == "field-57_steps"


def test_an_image_is_dropped(idle, idle_token):
    """One that misses its place does not take the page away; the image and the prompt stay with another model."""
    page = idle.open(idle_token).page
    idle.fill_names()
    page.locator("#field-6_text").fill("kept")
    missed, taken = (page.evaluate(DROP, [selector, "a cat.png"]) for selector in ("main", ".zone"))
    assert missed == taken == {"dragover": "ours", "drop": "ours"}, "the browser must not open it"
    assert page.locator("#field-68_image ~ input").input_value() == "a cat.png"
    page.get_by_label("Model").select_option(HOSTED.model_id)
    page.locator(".zone img").first.wait_for()
    names = [page.locator(f"#field-{key} ~ input").input_value() for key in ("68_image", "62_image")]
    assert (names, page.locator("#field-6_text").input_value()) == (["a cat.png", "end.jpg"], "kept")


def test_another_token_uploads_the_images_again(idle, idle_gateway, idle_token):
    page = idle.open(idle_gateway.token).page
    idle.fill()
    idle.run()
    idle.wait_for_state("waiting")
    page.get_by_role("button", name="Change token").click()
    idle.enter_token("“no token”")
    idle.wait_for_text("#token-error", "This is not a token")
    idle.enter_token(idle_token)
    page.locator("#token-form").wait_for(state="hidden")
    idle.run()
    idle.wait_for_state("waiting")
    assert len(requests_of(idle_gateway, idle_token)) == 1


def test_what_is_said_while_it_runs(idle, idle_gateway, idle_token):
    page = idle.open(idle_token).page
    progress = {"fraction": 0.1, "node": "Sampler", "step": 2, "steps": 20, "eta_seconds": 119.6}
    idle.fill_names()
    idle.run()
    idle.wait_for_state("waiting")
    running = {"request_id": idle.request_id, "status": "in_progress", "progress": progress}
    page.route("**/status", lambda route: route.fulfill(json=running))
    event = f"id: 9\nevent: status\ndata: {json.dumps(running)}\n\n"
    page.route("**/events?*", lambda route: route.fulfill(body=event, content_type="text/event-stream"))
    page.reload()
    idle.enter_token(idle_token)
    idle.wait_for_text("#eta", "2:00 left")
    assert idle.text("#step") == "Sampler: 2 of 20"
    page.locator("#cancel").click()
    idle.wait_for_text("#note", "Cancelling: it ends with the step that runs.")
    with page.expect_response("**/events?*"):
        pass
    idle.wait_for_text("#note", "Cancelling")
    page.get_by_role("button", name="Stop").click()
    idle.wait_for_text("#note", "Not followed any more.")


def test_an_error_of_no_field_is_said_too(idle, idle_token):
    """A model can change while its form is open."""
    entry = {"loc": ["body", "57_new"], "msg": "57_new is missing.", "type": "missing"}
    body = {"error_code": 422001, "error_message": entry["msg"], "detail": [entry]}
    idle.page.route("**/v1/models/demo/**", lambda route: route.fulfill(status=422, json=body))
    idle.open(idle_token).fill_names()
    idle.run()
    idle.wait_for_text("#form-error", "57_new is missing.")


def test_what_is_no_number_is_not_sent(idle, idle_gateway, idle_token):
    page = idle.open(idle_token).page
    idle.fill_names(**{"57_noise_seed": ""})
    for key, typed in (("57_steps", "1e"), ("73_frame_rate", "")):
        page.locator(f"#field-{key}").fill("")
        page.locator(f"#field-{key}").press_sequentially(typed)
    idle.run()
    assert idle.text("#field-57_steps-error") == "Steps is not a number. Give a number from 1 to 20."
    assert idle.text("#field-73_frame_rate-error").startswith("Frames Per Second is empty. Give a number from ")
    assert idle.text("#field-57_noise_seed-error") == "Seed is empty. Give a number from 0 to 18446744073709551615."
    assert requests_of(idle_gateway, idle_token) == []
    idle.fill_names(**{"57_noise_seed": " 7 ", "57_steps": "1e1", "73_frame_rate": "24"})
    idle.run()
    idle.wait_for_state("waiting")
    (request,) = requests_of(idle_gateway, idle_token)
    assert [request["input"][key] for key in ("57_noise_seed", "57_steps", "73_frame_rate")] == [7, 10, 24]


def test_the_settings_of_a_request_whose_model_is_gone(idle, idle_gateway, idle_token):
    gone = replace(DEMO, model_id="gone", graph=graph_for(DEMO))
    assert in_store(idle_gateway, lambda store: store.add_model(gone))
    idle_gateway.submit("/v1/models/gone", token=idle_token)
    in_store(idle_gateway, lambda store: end_all(idle_gateway, store))
    in_store(idle_gateway, lambda store: store.remove_model("gone"))
    page = idle.open(idle_token).page
    idle.fill(prompt="kept")
    page.locator("#requests .row").click()
    page.get_by_role("button", name="Use these settings").click()
    idle.wait_for_text("#result-error", "The model gone is not offered here. The form is as it was.")
    assert page.locator("#field-6_text").input_value() == "kept"
    assert idle.text("#model-id") == DEMO.model_id


def test_hostile_texts_stay_texts(idle, idle_gateway):
    """As prompt, name of a file, text of an error, title of a model."""

    def give_title(route):
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace(DEMO.display_name, EVIL.replace('"', '\\"')))

    page, name = idle.page, f"{EVIL}.png"
    page.route("**/v1/openapi.json", give_title)
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    upload = {"name": name, "mimeType": "image/png", "buffer": file.getvalue()}
    idle.open(idle_gateway.token).fill(prompt=EVIL, start=upload, end=upload)
    assert idle.text("#model-title") == EVIL
    assert page.locator("#field-68_image ~ input").input_value() == name
    for tab in ("curl", "Python", "JavaScript"):
        page.get_by_role("tab", name=tab).click()
        assert "onerror" in idle.text("#code")
    idle.run()
    idle.wait_for_state("waiting")
    request_id = idle.request_id

    def fail(store):
        store.assign(request_id)
        store.end(request_id, "failed", error=EVIL)

    in_store(idle_gateway, fail)
    idle.wait_for_state("failed")
    assert idle.text("#result-error") == EVIL
    assert idle.text("#requests .prompt >> nth=0") == EVIL
    page.locator("#field-57_noise_seed").fill(EVIL)
    idle.run()
    page.wait_for_function("() => document.querySelector('#field-57_noise_seed-error').textContent.includes('onerror')")
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("tab", ["curl", "Python", "JavaScript"])
def test_a_program_makes_the_video(playground, gateway, token, tmp_path, tab):
    """With a prompt and file names that each language could misread."""
    command = {
        "curl": ["bash", "-c"],
        "Python": [sys.executable, "-c"],
        "JavaScript": [
            compute_driver_executable()[0],
            "--input-type=module",
            "--eval",
        ],  # Playwright brings its Node.js
    }[tab]
    if tab == "curl" and not (shutil.which("bash") and shutil.which("curl")):
        pytest.skip("NOT RUN: there is no bash or no curl on this machine. Install them.")
    prompt = """it's a "circle" $(touch hacked) `touch hacked` \\n ${x} #{y} \u2028 犬"""
    start = tmp_path / "it's $(touch hacked).png"
    Image.open(IMAGES / "start.jpg").resize((64, 64)).save(start)
    (tmp_path / "end.jpg").write_bytes((IMAGES / "end.jpg").read_bytes())
    playground.open(token).fill(prompt=prompt, start=start, **{"57_noise_seed": str(2**64 - 2)})
    playground.page.get_by_role("tab", name=tab).click()
    program = playground.page.locator("#code").text_content().replace("TOKEN=  #", f"TOKEN={token}  #")
    environment = {**os.environ, "TOKEN": token}
    done = subprocess.run([*command, program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (address,) = re.findall(r"""http[^\s"]+/video\.mp4\?[^\s",\]]+""", done.stdout.partition('"videos"')[0])
    (request,) = requests_of(gateway, token)
    assert (request["input"]["6_text"], request["input"]["57_noise_seed"]) == (prompt, 2**64 - 2)
    video = call(gateway.url, "GET", address.removeprefix(gateway.url))
    with av.open(io.BytesIO(video.content)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (96, 128, 17)
    assert not (tmp_path / "hacked").exists()


def test_an_event_source_follows_a_request(idle, idle_gateway, idle_token):
    """By the signed link, which it opens again with the last event's id when the stream ends."""
    page = idle.open(idle_token).page
    links = idle_gateway.post(SUBMIT_DEMO, BODY, token=idle_token).json
    page.evaluate(
        """url => {
            window.seen = []
            const source = new EventSource(url)
            source.addEventListener("status", event => seen.push(JSON.parse(event.data).status))
            source.addEventListener("error", () => seen.push(source.readyState))
        }""",
        links["events_url"],
    )
    page.wait_for_function("() => seen.includes('in_queue')")
    in_store(idle_gateway, lambda store: end_all(idle_gateway, store))
    closed = 2
    page.wait_for_function("closed => seen.at(-1) === closed", arg=closed)  # after a 204
    statuses = [one for one in page.evaluate("seen") if isinstance(one, str)]
    assert statuses[0] == "in_queue"
    assert statuses.count("completed") == 1


def end_all(gateway, store):
    for job in store.queue():
        store.assign(job.id)
        gateway.succeed(store, job.id)


def serious(page):
    """Return what axe-core finds on the page in light and dark, and how far it can be scrolled sideways on a phone."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for violation in Axe().run(page).response["violations"]:
            found += [(scheme, violation["id"], node["html"]) for node in violation["nodes"]]
    page.set_viewport_size(PHONE)
    wider = page.evaluate(SIDEWAYS)
    page.set_viewport_size(DESK)
    return found, wider


def test_everybody_can_use_it(idle, idle_token):
    """No finding of axe-core, light and dark; no sideways scrolling on a phone; all by the keyboard."""
    page = idle.open().page
    page.locator("#field-6_text").wait_for()
    assert serious(page) == ([], 0), "it asks for a token"
    assert page.evaluate(CUT) == [], "every key of the form can be read"
    idle.open(idle_token).fill()
    page.locator("#tab-curl").focus()
    page.keyboard.press("ArrowRight")
    assert "import requests" in idle.text("#code")
    page.get_by_role("button", name="Run", exact=True).focus()
    page.keyboard.press("Enter")
    idle.wait_for_state("waiting")
    assert serious(page) == ([], 0), "it waits"
    page.goto(f"{idle.url}/v1/docs")
    page.locator("#calls section").first.wait_for()
    assert serious(page) == ([], 0), "the reference"


def test_the_reference_has_every_call(idle, idle_gateway):
    idle.page.goto(f"{idle_gateway.url}/v1/docs")
    idle.page.locator("#calls section").first.wait_for()
    document = idle_gateway.get("/v1/openapi.json").json
    titles = [call["summary"] for path in document["paths"].values() for call in path.values()]
    assert idle.page.locator("#calls h2").all_inner_texts() == titles
    assert "18446744073709551615" in idle.text("#calls"), "not rounded"


def test_the_reference_says_that_it_could_not_be_loaded(idle, idle_gateway):
    idle.page.route("**/v1/openapi.json", lambda route: route.abort())
    idle.page.goto(f"{idle_gateway.url}/v1/docs")
    idle.wait_for_text("#about", "The reference could not be loaded. The connection to the API was lost.")
    assert [fault for fault in idle.faults if "connection" in fault] == idle.faults
    idle.faults.clear()


def test_mounted_in_comfyui(new_playground, comfyui):
    """On ComfyUI's own origin, under the looser policy of --disable-api-nodes; the token is kept nowhere."""
    token = (comfyui.base_dir / "user" / "wan_flf2v" / "token").read_text()
    assert LOOSE in call(comfyui.url, "GET", "/v1/").headers["Content-Security-Policy"]
    assert call(comfyui.url, "GET", "/v1/").headers["X-Frame-Options"] == "DENY"
    playground = new_playground(comfyui.url)
    page = playground.open(token, path="/v1").page
    assert not page.get_by_label("Remember it").is_visible()
    playground.fill(**{"57_steps": "1"})
    playground.run()
    playground.wait_for_video()
    assert not page.evaluate("sessionStorage.length + localStorage.length")
    request_id = playground.request_id
    page.reload()
    page.locator("#token-form").wait_for()
    playground.enter_token(token)
    playground.wait_for_video()
    assert playground.request_id == request_id


@pytest.mark.pictures
def test_pictures_of_the_page(comfyui, playground, token):
    """Makes docs/page*.jpg: what the demo's models make of their two photographs, as far as the middle."""
    copy_trained_models(comfyui.base_dir / "models")  # the other tests have a random VAE, which is quick
    page = playground.open(token).page
    playground.fill(**{"71_widthx71_height": "128x128 (1:1)", "67_length": "33", "57_steps": "6"})
    playground.run()
    playground.wait_for_video()
    page.evaluate(
        """() => new Promise((resolve) => {
            const video = document.querySelector("#video");
            video.pause();
            video.controls = false;
            video.addEventListener("seeked", resolve);
            video.currentTime = video.duration / 2;
            document.activeElement.blur();
        })"""
    )
    page.mouse.move(0, 0)  # nothing is under it
    for name, size, scheme, top in (
        ("page", DESK, "light", "#main"),
        ("page_dark", DESK, "dark", "#main"),
        ("page_phone", PHONE, "light", "#main"),
        ("page_phone_result", PHONE, "dark", "#result-title"),
    ):
        page.set_viewport_size(size)
        page.emulate_media(color_scheme=scheme)
        page.evaluate("top => scrollTo(0, document.querySelector(top).getBoundingClientRect().top + scrollY - 80)", top)
        page.screenshot(path=str(REPO / "docs" / f"{name}.jpg"), type="jpeg", quality=88)
