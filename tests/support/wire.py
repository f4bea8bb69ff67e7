"""The network between the gateway and a ComfyUI, which can drop what goes one way, the other, or both."""

import asyncio

WAYS = ("there", "back")


class Wire:
    """``async with Wire(host)`` passes bytes on between ``url`` and a stand-in.

    What is dropped comes late and in order, as TCP sends it again until it arrives; connections stay open.
    """

    def __init__(self, host):
        self.host, self.files = host, host.files
        self._passes = {way: asyncio.Event() for way in WAYS}
        self.mend()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.mend()
        self._server.close()

    def cut(self, *ways):
        for way in ways:
            self._passes[way].clear()

    def mend(self):
        for passes in self._passes.values():
            passes.set()

    async def _serve(self, reader, writer):
        try:
            from_host, to_host = await asyncio.open_connection("127.0.0.1", self.host.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass("there", reader, to_host), self._pass("back", from_host, writer))

    async def _pass(self, way, source, sink):
        try:
            while data := await source.read(1 << 16):
                await self._passes[way].wait()
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass  # the other side ended
        finally:
            sink.close()
