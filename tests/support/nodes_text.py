"""The texts that nodes show in the app while they run."""

import asyncio
import uuid

import aiohttp
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.run import run_graph


async def texts_shown(server, prompt):
    """Run a prompt and return the texts that nodes showed meanwhile, by node id."""
    shown = []

    async def listen(session):
        async with session.ws_connect(f"{server.url}/ws?clientId={uuid.uuid4().hex}") as socket:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY and message.data[:4] == b"\0\0\0\3":  # a node's text
                    length = int.from_bytes(message.data[4:8], "big")
                    shown.append((message.data[8 : 8 + length].decode(), message.data[8 + length :].decode()))

    async with aiohttp.ClientSession() as session, ComfyClient(server.url) as client:
        listener = asyncio.create_task(listen(session))
        await asyncio.sleep(0.2)
        try:
            await run_graph(client, prompt)
        finally:
            listener.cancel()
            await asyncio.wait([listener])
    return shown
