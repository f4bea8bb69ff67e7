"""Fetching from and sending to real servers: TLS, redirects, rebinding, limits and servers that mean ill."""

import asyncio
import gzip
import io
import ssl

import pytest
import trustme
from aiohttp import web
from support.web_server import answers, serve
from wan_flf2v.gateway import fetch
from wan_flf2v.gateway.fetch import Fetcher, FetchError
from wan_flf2v.gateway.settings import Settings

LIMIT = 100_000


@pytest.fixture
def private(tmp_path):
    """Return a function that makes settings which allow loopback."""
    return lambda **changes: Settings(data=tmp_path, allow_private_urls=True, **changes)


@pytest.fixture
def public(tmp_path, monkeypatch):
    """Settings as they are by default; but 127.0.0.1, and nothing else on loopback, counts as public."""
    real = fetch.is_public
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1" or real(address))
    return Settings(data=tmp_path)


@pytest.fixture
def tls(tmp_path, monkeypatch):
    """A server's TLS for images.test, from an authority that this machine trusts during the test."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("images.test").configure_cert(context)
    return context


def fetched(fetcher, path, *, handler, tls=None, host="images.test", limit=LIMIT):
    """Return what ``save`` writes for a path of a server that responds with ``handler``."""

    async def go():
        async with serve(handler, tls=tls) as port:
            return await got(fetcher, f"{'https' if tls else 'http'}://{host}:{port}{path}", limit)

    return asyncio.run(go())


async def got(fetcher, url, limit=LIMIT):
    stream = io.BytesIO()
    await fetcher.save(url, stream, limit)
    return stream.getvalue()


async def say_who(request):
    names = ("Host", "Authorization", "Cookie", "Accept-Encoding", "User-Agent")
    return web.json_response({name: request.headers.get(name) for name in names})


def test_https_is_fetched_under_the_name_from_the_checked_address(public, tls):
    resolve, asked = answers("127.0.0.1")
    body = fetched(Fetcher(public, resolve), "/", handler=say_who, tls=tls)
    assert b'"Host": "images.test:' in body and b'"Accept-Encoding": "identity"' in body
    assert b'"Authorization": null, "Cookie": null' in body
    assert asked == ["images.test"]


def test_a_certificate_of_another_name_is_refused(public, tls):
    with pytest.raises(FetchError, match="certificate is not valid"):
        fetched(Fetcher(public, answers("127.0.0.1")[0]), "/", handler=say_who, tls=tls, host="other.test")


def test_a_certificate_of_an_unknown_authority_is_refused(public, tls, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(FetchError, match="certificate is not valid"):
        fetched(Fetcher(public, answers("127.0.0.1")[0]), "/", handler=say_who, tls=tls)


NOT_PUBLIC = "not on the public Internet"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("https://127.0.0.2:{port}/secret", NOT_PUBLIC),
        ("//127.0.0.2:{port}/secret", NOT_PUBLIC),
        ("https://[::1]:{port}/secret", NOT_PUBLIC),
        ("https://0:{port}/secret", NOT_PUBLIC),
        ("https://2130706434:{port}/secret", NOT_PUBLIC),
        ("https://[::ffff:7f00:2]:{port}/secret", NOT_PUBLIC),
        ("https://inner.test:{port}/secret", NOT_PUBLIC),
        ("https://169.254.169.254/latest/meta-data/", NOT_PUBLIC),
        ("https://10.0.0.1/", NOT_PUBLIC),
        ("http://127.0.0.1:{port}/secret", "must begin with https://"),
        ("http://images.test:{port}/secret", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("https://user:secret@images.test:{port}/secret", "user name or password"),
        ("https://[::1", "not an address"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_private_addresses_are_refused(public, tls, target, reason, status):
    """The first address is fine and is asked; what it redirects to is checked like the first."""
    paths = []

    async def redirect(request):
        paths.append(request.path)
        return web.Response(status=status, headers={"Location": target.format(port=request.url.port)})

    async def resolve(host, port):
        known = {"images.test": "127.0.0.1", "inner.test": "192.168.1.1"}
        return [known[host]] if host in known else await fetch.system_resolve(host, port)

    with pytest.raises(FetchError, match=reason):
        fetched(Fetcher(public, resolve), "/start", handler=redirect, tls=tls)
    assert set(paths) == {"/start"}


def test_redirects_are_followed_three_times(private):
    async def count_down(request):
        left = int(request.path[1:])
        if left == 0:
            return await say_who(request)
        return web.Response(status=302, headers={"Location": f"/{left - 1}", "Set-Cookie": "a=b; Path=/"})

    fetcher = Fetcher(private(), answers("127.0.0.1")[0])
    assert b'"Cookie": null' in fetched(fetcher, "/3", handler=count_down)
    with pytest.raises(FetchError, match="redirects more than 3 times"):
        fetched(fetcher, "/4", handler=count_down)


def test_a_name_that_changes_after_the_check_is_not_followed(public, tls):
    """DNS rebinding between submit and delivery: each request is checked by itself."""
    found = [["8.8.8.8"], ["127.0.0.2"], ["::1"]]

    async def resolve(host, port):
        return found.pop(0)

    async def go():
        paths = []

        async def note(request):
            paths.append(request.path)
            return web.Response()

        async with serve(note, tls=tls) as port:
            fetcher, url = Fetcher(public, resolve), f"https://images.test:{port}/"
            await fetcher.check(url)
            with pytest.raises(FetchError, match="not on the public Internet"):
                await got(fetcher, url)
            with pytest.raises(FetchError, match="not on the public Internet"):
                await fetcher.post(url, b"{}", {})
        assert not paths and not found

    asyncio.run(go())


def test_the_connection_goes_to_the_address_that_was_checked(public, tls):
    """DNS rebinding within a request: the name is looked up once, and never again for the connection."""
    found = [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"]]

    async def resolve(host, port):
        return found.pop(0)

    async def where(request):
        return web.Response(text=request.transport.get_extra_info("sockname")[0])

    assert fetched(Fetcher(public, resolve), "/", handler=where, tls=tls) == b"127.0.0.1"
    assert len(found) == 2


def test_the_next_address_is_tried_when_one_takes_no_connection(private):
    fetcher = Fetcher(private(), answers("::1", "127.0.0.1")[0])
    assert b"Host" in fetched(fetcher, "/", handler=say_who)


def test_a_server_that_is_not_there(private, unused_port):
    with pytest.raises(FetchError, match="cannot be reached"):
        asyncio.run(got(Fetcher(private()), f"http://127.0.0.1:{unused_port}/"))


@pytest.fixture
def unused_port():
    async def go():
        async with serve(say_who) as port:
            return port

    return asyncio.run(go())


def test_this_machines_proxy_and_passwords_are_not_used(private, unused_port, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port}")
    (tmp_path / "netrc").write_text("machine images.test login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    body = fetched(Fetcher(private(), answers("127.0.0.1")[0]), "/", handler=say_who)
    assert b'"Authorization": null' in body


def test_a_body_of_just_the_limit_is_taken_and_one_byte_more_is_not(private):
    async def send(request):
        return web.Response(body=b"x" * int(request.path[1:]))

    assert len(fetched(Fetcher(private()), f"/{LIMIT}", handler=send, host="127.0.0.1")) == LIMIT
    with pytest.raises(FetchError, match="sends more than"):
        fetched(Fetcher(private()), f"/{LIMIT + 1}", handler=send, host="127.0.0.1")


def test_a_body_without_end_is_cut_off_at_the_limit(private):
    sent = []

    async def send_for_ever(request):
        response = web.StreamResponse()  # chunked: its size is not known beforehand
        await response.prepare(request)
        while True:
            await response.write(b"x" * 10_000)
            sent.append(10_000)

    with pytest.raises(FetchError, match="sends more than"):
        fetched(Fetcher(private()), "/", handler=send_for_ever, host="127.0.0.1")
    assert sum(sent) >= LIMIT


def test_a_body_that_says_it_is_too_large_is_not_waited_for(private):
    async def announce(request):
        response = web.StreamResponse(headers={"Content-Length": str(LIMIT + 1)})
        await response.prepare(request)
        await asyncio.sleep(600)

    with pytest.raises(FetchError, match="sends more than"):
        fetched(Fetcher(private()), "/", handler=announce, host="127.0.0.1")


def test_a_compressed_response_is_refused(private):
    async def bomb(request):
        return web.Response(body=gzip.compress(bytes(10_000_000)), headers={"Content-Encoding": "gzip"})

    with pytest.raises(FetchError, match="compressed"):
        fetched(Fetcher(private()), "/", handler=bomb, host="127.0.0.1")


@pytest.mark.parametrize("status", [204, 206, 304, 401, 403, 404, 500])
def test_a_response_that_is_not_the_file(private, status):
    async def answer(request):
        return web.Response(status=status)

    with pytest.raises(FetchError, match=f"status {status}"):
        fetched(Fetcher(private()), "/", handler=answer, host="127.0.0.1")


async def never_respond(request):
    await asyncio.sleep(600)


async def drip(request):
    response = web.StreamResponse(headers={"Content-Length": "100000"})
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("handler", [never_respond, drip])
def test_a_slow_server_is_given_up_after_the_configured_time(private, handler):
    with pytest.raises(FetchError, match=r"within 0.4 s"):
        fetched(Fetcher(private(fetch_timeout_s=0.4)), "/", handler=handler, host="127.0.0.1")


def test_a_slow_name_server_is_given_up_after_the_configured_time(private):
    async def resolve(host, port):
        await asyncio.sleep(600)

    with pytest.raises(FetchError, match=r"within 0.4 s"):
        asyncio.run(Fetcher(private(fetch_timeout_s=0.4), resolve).check("https://images.test/"))


@pytest.mark.parametrize(
    "answer",
    [b"", b"not HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000 + b"\r\n\r\n"],
)  # fmt: skip
def test_responses_that_are_not_http(private, answer):
    async def go():
        async def reply(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(reply, "127.0.0.1", 0)
        async with server:
            with pytest.raises(FetchError, match="cannot be reached, or the connection broke"):
                await got(Fetcher(private()), f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    asyncio.run(go())


def test_post_sends_the_body_and_does_not_follow_redirects(private):
    seen = []

    async def redirect(request):
        seen.append((request.method, request.path, await request.read(), request.headers["webhook-id"]))
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async def go():
        async with serve(redirect) as port:
            fetcher = Fetcher(private())
            return await fetcher.post(f"http://127.0.0.1:{port}/hook", b'{"a":1}', {"webhook-id": "msg_1"})

    assert asyncio.run(go()) == 307
    assert seen == [("POST", "/hook", b'{"a":1}', "msg_1")]
