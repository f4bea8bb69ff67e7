"""One gateway before several ComfyUIs, on either store, and what is submitted to it."""

from __future__ import annotations

import base64
import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ._gateway import GatewayProcess, worker_processes
from ._nats import nodes_for

_SETTINGS = {"queue_limit": 1_000_000, "rate_per_minute": 1_000_000, "demo": True}


@contextlib.contextmanager
def gateway_before(
    urls: Sequence[str], store: str, fill: Callable[[GatewayProcess], None] | None = None, **settings: Any
) -> Iterator[GatewayProcess]:
    """Run a new gateway, on JetStream with an outward worker beside each ComfyUI; yield it when all of them are idle.

    ``fill`` is called before the gateway starts. This waits, so that stand-ins must be on another thread or process.
    """
    with (
        tempfile.TemporaryDirectory(prefix="wan-flf2v-bench-", ignore_cleanup_errors=True) as folder,
        nodes_for(store, Path(folder)) as cluster,
    ):
        nats_url = cluster.ready() if cluster is not None else None
        with worker_processes(Path(folder) / "workers", nats_url, urls) as workers:
            data = Path(folder) / "gateway"
            gateway = GatewayProcess(data, [] if workers else urls, config={**_SETTINGS, **settings}, nats_url=nats_url)
            if fill is not None:
                fill(gateway)
            gateway.start()
            try:
                gateway.wait_for_workers(len(urls))
                yield gateway
            finally:
                gateway.stop()


def data_uri(image: Image.Image) -> str:
    """Return the image as a PNG inside a data URI."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
