"""Finished requests, a sender and receivers for the tests of webhooks."""

import asyncio
import contextlib
import uuid

from aiohttp import web
from wan_flf2v.gateway.fetch import Fetcher
from wan_flf2v.gateway.jobs.records import Submission
from wan_flf2v.gateway.jobs.webhooks import WebhookSender
from wan_flf2v.gateway.settings import Settings

from support.api_runs import until
from support.stores import sql
from support.web_server import serve


async def finished_job(store, url, *, token="anna", secret=None, base_url=None, status="succeeded"):
    job_id = str(uuid.uuid4())
    webhook = {"webhook": url, "webhook_secret": secret, "base_url": base_url}
    await store.submit(Submission(job_id, token, "model", {}, {}, **webhook))
    await store.assign(job_id)
    await store.end(job_id, status, error="why" if status == "failed" else None)
    return job_id


def sender(store, folder, resolve=None, *, private=True, **changes):
    settings = Settings(data=folder, allow_private_urls=private, **changes)
    fetcher = Fetcher(settings, resolve) if resolve else Fetcher(settings)
    return WebhookSender(settings, store, fetcher, lambda job, _: {"request_id": job.id, "name": "Füße 画"})


def owed(store):
    """Return the webhooks that are not done, whenever they are due."""
    rows = sql(store, "SELECT job_id, attempts, due_at FROM webhooks")
    return {job_id: (attempts, due_at) for job_id, attempts, due_at in rows}


@contextlib.asynccontextmanager
async def running(*senders):
    tasks = [asyncio.create_task(each.run()) for each in senders]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended


class Receiver:
    """Notes what it is sent, and responds with the given statuses, the last one again and again."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.messages = []

    async def answer(self, request):
        self.messages.append((dict(request.headers), await request.read(), request.path))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return web.Response(status=status, headers={"Location": "/elsewhere"} if 300 <= status < 400 else {})


def deliver(store, folder, handler, until_holds, *, path="/hook?a=1", status="succeeded", secret=None, **changes):
    """Run a sender for one finished job until the condition, which gets its id, holds; returns the id."""

    async def go():
        async with serve(handler) as port:
            job_id = await finished_job(store, f"http://127.0.0.1:{port}{path}", status=status, secret=secret)
            async with running(sender(store, folder, **changes)):
                await until(lambda: until_holds(job_id))
            return job_id

    return asyncio.run(go())
