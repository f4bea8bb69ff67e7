"""The parts of the API that tests share: gateways, a store, images, an API without its HTTP side."""

import asyncio

import pytest
from support.api_runs import Api
from support.stores import chosen_store
from wan_flf2v.gateway.decoders import Decoders
from wan_flf2v.gateway.fetch import Fetcher
from wan_flf2v.gateway.images import Images
from wan_flf2v.gateway.jobs import webhooks
from wan_flf2v.gateway.settings import Settings


@pytest.fixture(scope="module")
def gateway(new_gateway):
    """A gateway whose ComfyUI is down, so that requests wait; it trusts a proxy at 192.0.2.1."""
    return new_gateway(trusted_proxies=["192.0.2.1"])


@pytest.fixture(scope="module")
def demo_gateway(new_gateway):
    """A gateway that offers the demo's model too; its ComfyUI is down."""
    return new_gateway(demo=True)


@pytest.fixture
def store(tmp_path):
    store = chosen_store(tmp_path)
    yield store
    asyncio.run(store.close())


@pytest.fixture(scope="session")
def decoders():
    """The processes that decode images, which tests share."""
    decoders = Decoders()
    yield decoders
    decoders.close()


@pytest.fixture
def make(tmp_path, store, decoders):
    """Return a function that makes an ``Images`` with changed settings."""

    def make(**changes):
        settings = Settings(data=tmp_path, allow_private_urls=True, **changes)
        return Images(settings, store, Fetcher(settings), decoders)

    return make


@pytest.fixture
def soon(monkeypatch):
    """A webhook's attempts follow each other at once."""
    monkeypatch.setattr(webhooks, "_POLL_S", 0.02)
    monkeypatch.setattr(webhooks, "_FIRST_DELAY_S", 0.02)


@pytest.fixture
def api(comfy_server, tmp_path):
    """The store, the settings and the dispatcher of an API on the shared ComfyUI."""
    api = Api(tmp_path, comfy_server.url)
    yield api
    asyncio.run(api.store.close())
