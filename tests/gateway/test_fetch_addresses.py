"""Which addresses the hosted API talks to on a stranger's word: public ones only, however they are spelled."""

import asyncio
import io
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.web_server import answers
from wan_flf2v.gateway.fetch import Fetcher, FetchError, is_public, system_resolve
from wan_flf2v.gateway.settings import Settings

PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:2::1",
    "2001:0:7f00:1::", "2001:10::1", "2001:db8::1", "2002:7f00:1::", "2002:0a00:0001::1", "3fff::1", "5f00::1",
    "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "4000::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "172.15.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1",
          "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]  # fmt: skip
# 127.0.0.1, ::1 and 0.0.0.0 in the spellings that some resolver or browser takes.
SPELLINGS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7F.1", "017700000001", "0177.0.0.1",
    "0177.0.0.01", "127.0.0.1.", "127.0.0.2", "0", "0.0.0.0", "localhost", "LOCALHOST", "localhost.", "[::1]", "[::]",
    "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]", "[::127.0.0.1]",
    "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1", "%31%32%37.0.0.1", "[fe80::1%25lo]",
]  # fmt: skip


def settings(tmp_path, **changes):
    return Settings(data=tmp_path, **{"fetch_timeout_s": 10.0, **changes})


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_hosts_of_the_internet(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_hosts_of_the_internet(address):
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_resolves_to_a_private_address_is_refused(tmp_path, address):
    resolve, asked = answers(address)
    with pytest.raises(FetchError, match=r'"images.test" is not on the public Internet'):
        asyncio.run(Fetcher(settings(tmp_path), resolve).check("https://images.test/a.png"))
    assert asked == ["images.test"]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_name_that_resolves_to_a_public_address_passes(tmp_path, address):
    asyncio.run(Fetcher(settings(tmp_path), answers(address)[0]).check("https://images.test/a.png"))


@pytest.mark.parametrize("others", [["127.0.0.1", "8.8.8.8"], ["8.8.8.8", "127.0.0.1"], ["8.8.8.8", "::1", "1.1.1.1"]])
def test_one_private_address_among_public_ones_is_refused(tmp_path, others):
    with pytest.raises(FetchError, match="not on the public Internet"):
        asyncio.run(
            Fetcher(settings(tmp_path), answers(*others)[0]).save("https://images.test/a.png", io.BytesIO(), 1000)
        )


@pytest.mark.parametrize("host", SPELLINGS)
@pytest.mark.parametrize("method", ["save", "post", "check"])
def test_no_spelling_of_a_loopback_address_is_connected_to(tmp_path, host, method):
    """With the system's own resolver, and with something that listens on loopback and counts."""

    async def go():
        connections = []
        server = await asyncio.start_server(lambda *streams: connections.append(streams), "127.0.0.1", 0)
        fetcher = Fetcher(settings(tmp_path))
        url = f"https://{host}:{server.sockets[0].getsockname()[1]}/"
        work = {"save": (url, io.BytesIO(), 1000), "post": (url, b"{}", {}), "check": (url,)}[method]
        async with server:
            with pytest.raises(FetchError, match=r"not on the public Internet|There is no host"):
                await getattr(fetcher, method)(*work)
        assert not connections

    asyncio.run(go())


def test_the_metadata_service_is_refused_by_address(tmp_path):
    for url in ("https://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/", "https://2852039166/"):
        with pytest.raises(FetchError, match="not on the public Internet"):
            asyncio.run(Fetcher(settings(tmp_path)).check(url))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://images.test/a.png", "must begin with https://"),
        ("ftp://images.test/a.png", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("gopher://images.test:6379/_FLUSHALL", "must begin with https://"),
        ("https:///a.png", "must begin with https://"),
        ("//images.test/a.png", "must begin with https://"),
        ("https://user:secret@images.test/a.png", "user name or password"),
        ("https://user@images.test/a.png", "user name or password"),
        ("https://images.test/a b.png", "blanks or control characters"),
        ("https://images.test/a\0.png", "blanks or control characters"),
        ("https://images.test/a\r\nX-Injected: 1", "blanks or control characters"),
        ("https://images.test/\u202egnp.a", "blanks or control characters"),
        ("https://images.test/\ud800", "blanks or control characters"),
        ("https://images.test:99999/", "not an address"),
        ("https://images.test:x/", "not an address"),
        ("https://[::1/", "not an address"),
        ("https://good.test\\@127.0.0.1/", "not an address"),
        ("https://images.test/" + "a" * 9000, "longer than 8000 characters"),
    ],
)
def test_addresses_that_are_not_even_looked_up(tmp_path, url, reason):
    resolve, asked = answers("8.8.8.8")
    with pytest.raises(FetchError, match=reason):
        asyncio.run(Fetcher(settings(tmp_path), resolve).save(url, io.BytesIO(), 1000))
    assert not asked


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".test"])
def test_names_that_dns_cannot_have(tmp_path, host):
    with pytest.raises(FetchError, match="There is no host"):
        asyncio.run(Fetcher(settings(tmp_path)).check(f"https://{host}/"))


@pytest.mark.parametrize("found", [[], ["not an address"]])
def test_a_resolver_that_finds_nothing_usable(tmp_path, found):
    with pytest.raises(FetchError, match=r'There is no host "images.test"'):
        asyncio.run(Fetcher(settings(tmp_path), answers(*found)[0]).check("https://images.test/"))


def test_a_resolver_that_fails(tmp_path):
    async def fail(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with pytest.raises(FetchError, match=r'There is no host "images.test"'):
        asyncio.run(Fetcher(settings(tmp_path), fail).check("https://images.test/"))


def test_looking_up_a_name_does_not_wait_for_the_processs_other_threads():
    """Nor they for it: slow name servers must not keep the store's writes from their threads."""

    async def go():
        free = threading.Event()
        with ThreadPoolExecutor(1) as others:
            asyncio.get_running_loop().set_default_executor(others)
            waiting = asyncio.create_task(asyncio.to_thread(free.wait))
            await asyncio.sleep(0)
            assert "127.0.0.1" in await system_resolve("127.0.0.1", 443)
            free.set()
            await waiting

    asyncio.run(go())
