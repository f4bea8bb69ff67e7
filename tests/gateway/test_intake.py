"""What comes in, on a real gateway: slow bodies, many large images by address, and images of refused requests."""

import asyncio
import contextlib
import io
import json
import os
import re
import socket
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from PIL import Image
from support.gateway_process import BODY, SUBMIT
from support.request_images import data_uri, encoded, picture, take
from support.web_server import serve
from wan_flf2v.gateway.http.errors import ApiError
from wan_flf2v.gateway.http.request_body import LARGE_BYTES, Body, LargeBodies, Pace
from wan_flf2v.gateway.jobs.records import Token

MEBIBYTE = 1 << 20
FORM = {"Content-Type": "multipart/form-data; boundary=edge"}


@pytest.fixture(scope="module")
def gateway(new_gateway):
    """A gateway that fetches from this machine; a token may keep 100 kB of uploads."""
    return new_gateway(allow_private_urls=True, uploads_max_bytes=100_000)


def inputs(gateway):
    return {path.name for path in (gateway.data / "inputs").iterdir()}


def noise(size=(64, 32)):
    """Return a PNG file that no other test has, a little larger than its pixels."""
    return encoded(Image.frombytes("RGB", size, os.urandom(size[0] * size[1] * 3)), "PNG")


def form(content):
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return head + content + b"\r\n--edge--\r\n"


def test_the_lines_of_a_data_uri_may_be_broken(gateway):
    head, _, code = data_uri(noise()).partition(",")
    lines = "\r\n".join(code[start : start + 76] for start in range(0, len(code), 76))
    gateway.submit(**{"62_image": f"{head},{lines}\n"})
    assert gateway.post(SUBMIT, {**BODY, "62_image": f"{head},{code}\x07"}).status == 422


# Refused requests


def test_images_of_a_refused_request_are_deleted(gateway):
    before = inputs(gateway)
    for other in ("data:,", "data:image/png;base64,aGFsbG8=", "no_address://", "http://127.0.0.1:9/a.png"):
        assert gateway.post(SUBMIT, {**BODY, "62_image": data_uri(noise()), "68_image": other}).status == 422
    assert inputs(gateway) == before


def test_images_that_others_need_stay(gateway):
    content = noise()
    refused = {**BODY, "62_image": data_uri(content), "68_image": "data:,"}
    uploaded = gateway.post("/v1/files", form(content), headers=FORM).json["id"]
    kept = inputs(gateway)
    assert gateway.post(SUBMIT, refused).status == 422
    assert inputs(gateway) == kept, "it is an upload too"
    gateway.submit(**{"62_image": uploaded})

    content = noise()
    refused["62_image"] = data_uri(content)
    gateway.submit(**{"62_image": data_uri(content)})
    kept = inputs(gateway)
    assert gateway.post(SUBMIT, refused).status == 422
    assert inputs(gateway) == kept, "a job waits for it"


def test_an_upload_over_the_limit_is_deleted(gateway):
    token, before = gateway.new_token("uploads"), inputs(gateway)
    assert gateway.post("/v1/files", form(noise((200, 200))), headers=FORM, token=token).status == 429
    assert inputs(gateway) == before


def test_of_many_refused_requests_with_one_image_the_last_deletes_it(make, tmp_path):
    async def refuse(images, uri, meet):
        with contextlib.suppress(ZeroDivisionError):
            async with images.intake("anna") as intake:
                await images.resolve(images.unpack(uri, intake), intake)
                await meet()
                raise ZeroDivisionError

    async def go():
        images, uri, together = make(), data_uri(noise()), asyncio.Event()
        here = []

        async def meet():
            here.append(1)
            if len(here) == 4:
                together.set()
            await together.wait()

        await asyncio.gather(*(refuse(images, uri, meet) for _ in range(4)))
        assert list((tmp_path / "inputs").iterdir()) == []

        other = make()  # as in another process of the API

        async def other_takes_it():
            await take(other, uri, "ben")
            await take(images, uri)

        await refuse(images, uri, other_takes_it)
        assert len(list((tmp_path / "inputs").iterdir())) == 1

    asyncio.run(go())


# Slow bodies


@contextlib.contextmanager
def dripping(gateway, count):
    """Send ``count`` large bodies of one token meanwhile, a byte every few seconds."""
    parts, stop = urlsplit(gateway.url), threading.Event()
    head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {10 * MEBIBYTE}\r\nExpect: 100-continue\r\n\r\n"
    )
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as thread:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=30))
            connection.sendall(head.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
            connections.append(connection)

        def drip():
            while not stop.wait(5.0):
                for connection in connections:
                    with contextlib.suppress(OSError):
                        connection.sendall(b" ")

        thread.submit(drip)
        try:
            yield
        finally:
            stop.set()


def test_large_bodies_that_drip_keep_no_other_waiting(gateway):
    body = {**BODY, "62_image": "data:image/png;base64," + "A" * (2 * MEBIBYTE)}
    with dripping(gateway, 3):
        assert gateway.post(SUBMIT, body).status == 422, "the token still has a place"
    with dripping(gateway, 5):
        assert gateway.post(SUBMIT, body, token=gateway.new_token("other")).status == 422
        upload = gateway.post("/v1/files", form(bytes(2 * MEBIBYTE)), headers=FORM, token=gateway.new_token("third"))
        assert upload.status == 422


def test_of_two_large_bodies_of_a_token_one_is_in_memory(tmp_path):
    """Both that are parsed at once are those of two tokens."""
    begun, leave = Counter(), threading.Event()

    def work(values):
        begun[values["of"]] += 1
        assert leave.wait(60)

    async def go():
        bodies = LargeBodies()

        async def read(token, owner):
            request = make_mocked_request("POST", "/")
            request["wan_flf2v_token"] = Token(owner, "", 0.0, None, None, None, id=owner)
            content = io.BytesIO(json.dumps({"of": token, "text": "A" * LARGE_BYTES}).encode())
            await bodies.read(request, Body(content, len(content.getvalue())), work)

        annas = [asyncio.create_task(read(f"anna {number}", "anna")) for number in range(2)]
        while not begun:
            await asyncio.sleep(0.01)
        bens = asyncio.create_task(read("ben", "ben"))
        while len(begun) < 2:
            await asyncio.sleep(0.01)
        seen = set(begun)
        leave.set()
        await asyncio.gather(*annas, bens)
        return seen

    assert asyncio.run(asyncio.wait_for(go(), 60)) == {"anna 0", "ben"}
    assert set(begun) == {"anna 0", "anna 1", "ben"}


@pytest.mark.parametrize(("size", "most"), [(0, 20.0), (10 * 16_384, 30.0), (1 << 30, 300.0)])
def test_a_body_that_drips_is_refused(size, most):
    async def wait(waited):
        pace, loop = Pace(), asyncio.get_running_loop()
        pace.size, pace._waited = size, waited
        piece = loop.create_future()
        loop.call_later(0.01, lambda: piece.done() or piece.set_result(b"x"))
        return await pace.read(piece)

    assert asyncio.run(wait(most - 15.0)) == b"x"
    with pytest.raises(ApiError, match="arrived too slowly"):
        asyncio.run(wait(most + 0.001))


# Images by address


def test_fetches_of_a_token_have_a_limit_and_leave_room_for_others(make):
    async def go():
        under_way, most, leave = Counter(), Counter(), asyncio.Event()
        ben_is_there = asyncio.Event()

        async def send(request):
            token = request.path.strip("/")
            under_way[token] += 1
            most[token] = max(most[token], under_way[token])
            if token == "ben":
                ben_is_there.set()
            await leave.wait()
            under_way[token] -= 1
            return web.Response(body=encoded(picture(), "PNG"))

        images = make()
        async with serve(send) as port:
            annas = [asyncio.create_task(take(images, f"http://127.0.0.1:{port}/anna", "anna")) for _ in range(10)]
            while under_way["anna"] < 4:
                await asyncio.sleep(0.01)
            bens = asyncio.create_task(take(images, f"http://127.0.0.1:{port}/ben", "ben"))
            await ben_is_there.wait()
            leave.set()
            await asyncio.gather(*annas, bens)
        assert most == {"anna": 4, "ben": 1}

    asyncio.run(go())


def test_fetches_of_all_tokens_together_have_a_limit(make):
    async def go():
        under_way, most, leave = 0, 0, asyncio.Event()

        async def send(request):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await leave.wait()
            under_way -= 1
            return web.Response(body=encoded(picture(), "PNG"))

        images = make()
        async with serve(send) as port:
            urls = [(f"http://127.0.0.1:{port}/{token}", token) for token in "abcde" for _ in range(4)]
            tasks = [asyncio.create_task(take(images, *one)) for one in urls]
            while under_way < 16:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            leave.set()
            await asyncio.gather(*tasks)
        assert most == 16

    asyncio.run(asyncio.wait_for(go(), 60))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_fetched_images_are_not_held_in_memory(gateway):
    size, content = 15 * MEBIBYTE, noise()

    def memory():
        status = Path(f"/proc/{gateway.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10

    async def go():
        async def send(request):
            response = web.StreamResponse(headers={"Content-Length": str(size)})
            await response.prepare(request)
            await response.write(content)
            for _ in range(size // MEBIBYTE - 1):
                await response.write(bytes(MEBIBYTE))
            await response.write(bytes(MEBIBYTE - len(content)))
            return response

        async with serve(send) as port:
            body = {**BODY, "62_image": f"http://127.0.0.1:{port}/a.png"}
            answers = await asyncio.gather(*(asyncio.to_thread(gateway.post, SUBMIT, body) for _ in range(6)))
        return [answer.status for answer in answers]

    gateway.submit()
    before = memory()
    assert asyncio.run(go()) == [200] * 6
    assert memory() - before < 2 * size, "of 6 files"
    assert max(path.stat().st_size for path in (gateway.data / "inputs").iterdir()) == len(content)
