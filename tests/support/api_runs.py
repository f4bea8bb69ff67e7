"""Requests and dispatchers for tests of the hosted API, on the demo's models."""

import asyncio
import contextlib
import shutil
import uuid

from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.contract.parameters import DEMO
from wan_flf2v.contract.validation import validate
from wan_flf2v.gateway.jobs.dispatcher import Dispatcher
from wan_flf2v.gateway.jobs.records import Submission
from wan_flf2v.gateway.jobs.results import Results
from wan_flf2v.gateway.settings import Settings

from support.stores import chosen_store

SMALL = {"71_widthx71_height": "96x128 (3:4)", "67_length": 17, "57_steps": 1}
# Guidance that the demo's models were not made for: preflight warns twice, which tells whether it ran.
MIDDLING = {**SMALL, "57_steps": 4, "57_cfg": 2}
MIDDLING_WARNINGS = ["cfg is 2", "cfg of the low-noise expert is 2"]
LONG = {"71_widthx71_height": "128x128 (1:1)", "67_length": 33, "57_steps": 20}  # for what is stopped on its way


def demo_values(**changes):
    """Return a complete demo request on the two photographs, each with another seed: nothing comes from a cache."""
    images = {"68_image": "start.jpg", "62_image": "end.jpg"}
    seed = {"57_noise_seed": uuid.uuid4().int % 2**32}
    return validate(DEMO, {"6_text": "a test", **images, **seed, **SMALL, **changes})


async def submit(store, *, token="test", inputs=None, webhook=None, **changes):
    """Accept a demo request."""
    values = demo_values(**changes)
    submission = Submission(str(uuid.uuid4()), token, DEMO.model_id, values, inputs or {}, webhook=webhook)
    return await store.submit(submission)


def accepted(store, **options):
    """Accept a demo request, in a test that has no event loop."""
    return asyncio.run(submit(store, **options))


def put_inputs(data):
    """Put the two photographs where accepted images lie; return what a request's ``inputs`` say of them."""
    folder = data / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("start.jpg", "end.jpg"):
        shutil.copy(REPO / "demo" / "images" / name, folder / f"mine-{name}")
    return {"68_image": "mine-start.jpg", "62_image": "mine-end.jpg"}


async def until(condition):
    """Wait until it holds, a function or a coroutine function; pytest's own time limit is the only one."""
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        await asyncio.sleep(0.01)


class Api:
    """The store and the settings of one API on a ComfyUI, without its HTTP side."""

    def __init__(self, data, url, **settings):
        self.settings = Settings(data=data, comfyui_url=url, demo=True, **settings)
        self.store = chosen_store(data)

    def dispatcher(self):
        return Dispatcher(self.store, self.settings, Results(self.settings, self.store))

    @contextlib.asynccontextmanager
    async def dispatching(self):
        """Dispatch while the block runs, then stop as a shutdown does."""
        dispatcher = self.dispatcher()
        task = asyncio.create_task(dispatcher.run())
        try:
            yield dispatcher
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    def run(self, use):
        """Run ``use(client, dispatcher)`` beside a dispatcher, in a test that has no event loop."""

        async def go():
            async with ComfyClient(self.settings.comfyui_url) as client, self.dispatching() as dispatcher:
                return await use(client, dispatcher)

        return asyncio.run(go())

    async def until(self, job, *statuses):
        """Wait until the request has one of these statuses, by default an end; return it."""
        while True:
            current = await self.store.get(job.id)
            if current.status in statuses or (not statuses and current.finished):
                return current
            await asyncio.sleep(0.05)

    def files(self, job, base_dir):
        """Return the names that ComfyUI wrote for the request."""
        folder = base_dir / "output" / "wan_flf2v_api"
        return sorted(path.name for path in folder.glob(f"*{job.id}*"))
