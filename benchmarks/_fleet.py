"""One gateway before several ComfyUIs, on either store, and what is submitted to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..contract.parameters import DEMO, Value
from ..gateway.jobs.records import Submission
from ..gateway.jobs.store import Store
from ..gateway.jobs.tokens import hash_token
from ._gateway import GatewayProcess, worker_processes
from ._nats import nodes_for

_AT_ONCE = 64
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


def put_cancelled(
    gateway: GatewayProcess, count: int, values: Callable[[int], dict[str, Value]], webhook: str | None = None
) -> None:
    """Put so many requests of the gateway's token into its store that were cancelled at once."""

    async def put(store: Store) -> None:
        token = await store.find_token(hash_token(gateway.token))
        if token is None:
            raise RuntimeError("the store does not have the gateway's token")

        async def put_share(share: int) -> None:
            for number in range(share, count, _AT_ONCE):
                job_id = str(uuid.uuid4())
                await store.submit(Submission(job_id, token.id, DEMO.model_id, values(number), {}, webhook=webhook))
                await store.cancel(job_id)

        await asyncio.gather(*map(put_share, range(_AT_ONCE)))

    gateway.with_store(put)


def data_uri(image: Image.Image) -> str:
    """Return the image as a PNG inside a data URI."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
