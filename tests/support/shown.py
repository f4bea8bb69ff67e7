"""What a ComfyUI shows in the app while a graph runs: texts on nodes, and pictures of what is being made."""

import asyncio
import io

import aiohttp
from PIL import Image

TEXT, PREVIEW = 3, 1  # what the host sends on its websocket besides JSON


class Shown:
    """Runs a graph; ``texts`` are (node id, text) in order, ``previews`` pictures, ``events`` (type, data) in order."""

    def __init__(self, host, graph):
        self.texts, self.previews, self.events = [], [], []
        asyncio.run(self._run(host, graph))

    async def _run(self, host, graph):
        async with aiohttp.ClientSession() as http, http.ws_connect(f"{host.url}/ws?clientId=shown") as socket:
            async with http.post(f"{host.url}/prompt", json={"prompt": graph, "client_id": "shown"}) as response:
                assert response.status == 200, await response.text()
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self._binary(message.data)
                    continue
                event = message.json()
                self.events.append((event["type"], event.get("data")))
                if event["type"] in ("execution_success", "execution_error"):
                    assert event["type"] == "execution_success", event
                    return

    def _binary(self, data):
        kind = int.from_bytes(data[:4], "big")
        if kind == TEXT:
            end = 8 + int.from_bytes(data[4:8], "big")
            self.texts.append((data[8:end].decode(), data[end:].decode()))
        elif kind == PREVIEW:
            self.previews.append(Image.open(io.BytesIO(data[8:])))
