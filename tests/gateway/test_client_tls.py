"""ComfyUI with TLS on this machine, as the mounted API reaches it: its certificate names another host."""

import asyncio
import socket
import ssl

import aiohttp
import pytest
import trustme
from aiohttp import web
from support.web_server import serve
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.errors import ServerUnreachableError
from wan_flf2v.gateway.jobs.addresses import addresses_of, resolve
from wan_flf2v.gateway.settings import Settings


async def stats(request):
    return web.json_response({"system": {"comfyui_version": "0.30.0"}})


def ask(host, **options):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("video.example.com").configure_cert(context)

    async def go():
        async with serve(stats, tls=context) as port, ComfyClient(f"https://{host}:{port}", **options) as client:
            return await client.system_stats()

    return asyncio.run(go())


def test_the_certificate_of_a_loopback_address_is_not_asked_for_its_name():
    assert ask("127.0.0.1")["system"]["comfyui_version"] == "0.30.0"


def test_any_other_certificate_is_checked_unless_told_not_to(monkeypatch):
    # The same server under a name that does not say loopback.
    async def resolve(self, host, port=0, family=socket.AF_INET):
        entry = {"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}
        return [entry]

    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve)
    with pytest.raises(ServerUnreachableError):
        ask("video.example.com")
    assert ask("video.example.com", verify_tls=False)["system"]["comfyui_version"] == "0.30.0"


def test_one_of_several_addresses_of_a_name_is_asked_for_the_name(tmp_path):
    """In TLS's server name indication: a proxy that serves several names needs it to choose the certificate."""
    asked = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("video.example.com").configure_cert(context)
    context.sni_callback = lambda _, name, __: asked.append(name)

    async def look_up(host, port):
        return ["127.0.0.1", "127.0.0.2"]

    async def go():
        async with serve(stats, tls=context) as port:
            settings = Settings(
                data=tmp_path, comfyui_url=f"https://video.example.com:{port}", comfyui_verify_tls=False
            )
            first, _ = await resolve(addresses_of(settings)[0], look_up)
            async with first.client() as client:
                return await client.system_stats()

    assert asyncio.run(go())["system"]["comfyui_version"] == "0.30.0"
    assert set(asked) == {"video.example.com"}
