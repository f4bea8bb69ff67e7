"""The gateways that tests share: real processes, one for each module and kind."""

import contextlib

import pytest
from support.gateway_process import NOWHERE, Gateway

NO_LIMITS = {"queue_limit": 10_000, "rate_per_minute": 1_000_000}


@pytest.fixture(scope="module")
def new_gateway(tmp_path_factory):
    """Return a function that starts a gateway without limits; keywords are further settings."""
    with contextlib.ExitStack() as stack:

        def start(comfyui_url=NOWHERE, **settings):
            folder = tmp_path_factory.mktemp("gateway")
            return stack.enter_context(Gateway(folder, comfyui_url, config={**NO_LIMITS, **settings}))

        yield start


@pytest.fixture(scope="module")
def gateway(new_gateway):
    """A gateway whose ComfyUI is down, so that requests wait; it trusts a proxy at 192.0.2.1."""
    return new_gateway(trusted_proxies=["192.0.2.1"])


@pytest.fixture(scope="module")
def demo_gateway(new_gateway):
    """A gateway that offers the demo's model too; its ComfyUI is down."""
    return new_gateway(demo=True)
