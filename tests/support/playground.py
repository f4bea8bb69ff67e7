"""The API's page in a browser: signs in, fills the form, runs, reads what is shown."""

import json
import time
import urllib.request

from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.contract.parameters import DEMO

from support.client_runs import slow_graph

IMAGES = REPO / "demo" / "images"
QUICK = {"71_widthx71_height": "96x128 (3:4)", "67_length": "17", "57_steps": "4"}
PLAYS = "() => { const it = document.querySelector('#video'); return it.readyState >= 2 && it.videoWidth > 0 }"
WAIT_MS = 600_000


class Playground:
    """One page. ``faults`` are the errors of its scripts and what its content policy refused."""

    def __init__(self, page, url):
        self.page, self.url, self.faults = page, url, []
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    def open(self, token=None, path="/v1/", keep=False):
        """Open the page, and enter a token if one is given."""
        self.page.goto(self.url + path)
        if token is not None:
            self.enter_token(token, keep)
            self.page.locator("#token-form").wait_for(state="hidden")
            self.page.locator("#requests-card").wait_for()
        return self

    def enter_token(self, token, keep=False):
        self.page.get_by_label("Token", exact=True).fill(token)
        if keep:
            self.page.get_by_label("Remember it").check()
        self.page.get_by_role("button", name="Use it").click()

    def fill(self, prompt="circle", start=IMAGES / "start.jpg", end=IMAGES / "end.jpg", **values):
        """Choose the demo's model, image files and values; what is not given is what is quick."""
        self.page.get_by_label("Model").select_option(DEMO.model_id)
        self.page.locator("#field-6_text").fill(prompt)
        self.page.locator("#field-68_image").set_input_files(start)
        self.page.locator("#field-62_image").set_input_files(end)
        self._fill_values(values)

    def fill_names(self, **values):
        """Like ``fill``, with images that lie in ComfyUI's input folder: a second run comes from its cache, mostly."""
        self.page.get_by_label("Model").select_option(DEMO.model_id)
        for key, name in (("68_image", "start.jpg"), ("62_image", "end.jpg")):
            self.page.locator(f"#field-{key} ~ input").fill(name)
        self._fill_values({"57_steps": "1", **values})

    def _fill_values(self, values):
        for key, value in {**QUICK, **values}.items():
            control = self.page.locator(f"#field-{key}")
            if key in ("71_widthx71_height", "67_length"):
                control.select_option(value)
            else:
                control.fill(value)

    def run(self):
        self.page.get_by_role("button", name="Run", exact=True).click()

    def wait_for_state(self, *words):
        names = "|".join(words)
        self.page.wait_for_function(
            "names => new RegExp(`^(${names})$`).test(document.querySelector('#state').textContent)", arg=names
        )

    def wait_for_text(self, selector, text):
        self.page.locator(selector).filter(has_text=text).wait_for()

    def wait_for_video(self):
        self.wait_for_state("succeeded")
        self.page.wait_for_function(PLAYS)

    def text(self, selector):
        return self.page.locator(selector).inner_text()

    @property
    def request_id(self):
        return self.page.evaluate("location.hash").removeprefix("#")

    def _note(self, message):
        # Chromium also reports each response of 400 and above, and each request that the network cut.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.faults.append(message.text)


class Busy:
    """ComfyUI works on something else inside the ``with`` block, so that every request waits there."""

    def __init__(self, url):
        self._url = url

    def __enter__(self):
        body = {"prompt": slow_graph(steps=10_000), "client_id": "busy"}
        self._prompt_id = self._ask("/prompt", body)["prompt_id"]
        return self

    def __exit__(self, *_):
        while self._is_queued():  # an interrupt that comes before the prompt has begun is lost
            self._ask("/queue", {"delete": [self._prompt_id]})
            self._ask("/interrupt", {"prompt_id": self._prompt_id})
            time.sleep(0.05)

    def _is_queued(self):
        queue = self._ask("/queue")
        return any(self._prompt_id == entry[1] for entry in (*queue["queue_running"], *queue["queue_pending"]))

    def _ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self._url + path, data), timeout=60) as response:
            return json.loads(response.read() or "null")
