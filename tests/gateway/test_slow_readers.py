"""Downloads of results: whole, in ranges, while they are purged, and by readers that do not read."""

import asyncio
import contextlib
import socket
import uuid

import aiohttp
from aiohttp import web
from support.stores import chosen_store, nats_url
from wan_flf2v.gateway.http import sending
from wan_flf2v.gateway.http.app import create_app
from wan_flf2v.gateway.jobs.records import Submission
from wan_flf2v.gateway.jobs.results import Results
from wan_flf2v.gateway.jobs.tokens import ANONYMOUS
from wan_flf2v.gateway.settings import Settings

SIZE = 32 << 20  # more than the system's buffers on both sides take


@contextlib.asynccontextmanager
async def served_result(data, content):
    """Serve the API in this process; yields its server and the link to a result with this content."""
    settings = Settings(data=data, comfyui_url="http://127.0.0.1:9", auth=False, nats_url=nats_url(data))
    store, job_id = chosen_store(data), str(uuid.uuid4())
    await store.submit(Submission(job_id, ANONYMOUS.id, "model", {}, {}))
    await store.assign(job_id)
    await store.end(job_id, "succeeded", output={"video": "video.mp4"})
    (data / "results" / job_id).mkdir(parents=True)
    (data / "results" / job_id / "video.mp4").write_bytes(content)
    runner = web.AppRunner(create_app(settings, own_url="http://127.0.0.1"), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield runner.server, Results(settings, store).urls(await store.get(job_id), base)["video"]
    finally:
        await runner.cleanup()
        await store.close()


def unread(link):
    """Ask for the file, and read nothing of it."""
    address, _, path = link.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.sendall(f"GET /{path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
    return client


def test_who_does_not_read_a_result_is_dropped_and_who_does_gets_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "READ_WAIT_S", 0.5)

    async def go():
        async with served_result(tmp_path, bytes(SIZE)) as (server, link):
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(unread(link)) for _ in range(5)]
                while len(server.connections) < len(clients):
                    await asyncio.sleep(0.01)
                while server.connections:  # pytest's own time limit is the only one
                    await asyncio.sleep(0.01)
                async with aiohttp.ClientSession() as session, session.get(link) as response:
                    assert len(await response.read()) == SIZE
                received = 0
                with contextlib.suppress(ConnectionResetError):
                    while piece := clients[0].recv(1 << 16):
                        received += len(piece)
                assert received < SIZE

    asyncio.run(go())


def test_a_result_that_is_purged_while_it_is_sent_arrives_whole_and_is_gone_then(tmp_path):
    async def go():
        async with served_result(tmp_path, bytes(SIZE)) as (_, link), aiohttp.ClientSession() as session:
            async with session.get(link) as response:
                first = await response.content.readexactly(1000)
                store = chosen_store(tmp_path)
                await Results(Settings(data=tmp_path, result_ttl_s=0), store).purge()
                await store.close()
                assert len(first + await response.read()) == SIZE
            async with session.get(link) as response:
                assert response.status == 404
                assert "error_code" in await response.json()

    asyncio.run(go())


RANGES = (  # what is asked for, status, what comes, Content-Range
    (None, 200, b"0123456789", None),
    ("bytes=0-", 206, b"0123456789", "bytes 0-9/10"),
    ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
    ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
    ("bytes=-3", 206, b"789", "bytes 7-9/10"),
    ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
    ("bytes=10-", 416, None, "bytes */10"),
    ("bytes=4-2", 416, None, "bytes */10"),
    ("bytes=1-2,4-5", 416, None, "bytes */10"),
    ("lines=1-2", 416, None, "bytes */10"),
)


def test_ranges_and_what_is_known_already(tmp_path):
    async def go():
        async with served_result(tmp_path, b"0123456789") as (_, link), aiohttp.ClientSession() as session:
            for asked, status, part, place in RANGES:
                headers = {} if asked is None else {"Range": asked}
                async with session.get(link, headers=headers) as response:
                    assert (response.status, response.headers.get("Content-Range")) == (status, place), asked
                    if part is None:
                        body = await response.json()
                        assert body["error_code"] == 416001
                        assert "10 bytes" in body["error_message"]
                    else:
                        assert await response.read() == part, asked
                        assert (response.content_type, response.content_length) == ("video/mp4", len(part))
                        tag = response.headers["ETag"]
                async with session.head(link, headers=headers) as response:
                    assert (response.status, await response.read()) == (status, b""), asked
            for known in (tag, f'"x", {tag}', "*"):
                async with session.get(link, headers={"If-None-Match": known}) as response:
                    assert (response.status, await response.read(), response.headers["ETag"]) == (304, b"", tag)
            async with session.get(link, headers={"If-None-Match": '"x"'}) as response:
                assert (response.status, await response.read()) == (200, b"0123456789")

    asyncio.run(go())
