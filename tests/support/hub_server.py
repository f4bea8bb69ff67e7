"""A real server on loopback that speaks the Hugging Face hub's protocol for files, and can fail as networks do."""

import asyncio
import contextlib
import hashlib
import threading

from aiohttp import web

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves ``files``, "OWNER/REPO/PATH" to bytes, as large files: metadata at /resolve/, the bytes behind a redirect.

    ``cut_after`` ends the connection after so many bytes of each of the next ``cuts`` responses. The next ``down``
    requests for bytes are refused. ``damage`` changes the bytes that are sent, not what is said of them. ``ranges``
    are the downloads' Range headers, ``None`` for a whole file.
    """

    def __init__(self, files):
        self.files = files
        self.cuts, self.cut_after, self.down, self.damage = 0, 0, 0, False
        self.ranges = []

    async def respond(self, request):
        if request.path.startswith("/cdn/"):
            return await self._bytes(request, self.files[request.path.removeprefix("/cdn/")])
        name = request.path.lstrip("/").replace("/resolve/main/", "/").replace(f"/resolve/{COMMIT}/", "/")
        if name not in self.files:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        content = self.files[name]
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.url.replace('127.0.0.1', 'localhost')}/cdn/{name}",  # another host, as the hub's
        }
        return web.Response(status=302, headers=headers)

    async def _bytes(self, request, content):
        if self.down:
            self.down -= 1
            return web.Response(status=503)
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        sent = bytes(len(content)) if self.damage else content
        headers = {"Content-Length": str(len(content) - first), "ETag": f'"{hashlib.md5(content).hexdigest()}"'}
        if asked:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if asked else 200, headers=headers)
        await response.prepare(request)
        if self.cuts:
            self.cuts -= 1
            await response.write(sent[first : first + self.cut_after])
            await asyncio.sleep(0.1)  # so that it is sent
            request.transport.close()
            return response
        await response.write(sent[first:])
        return response

    @contextlib.contextmanager
    def serving(self):
        """Serve from another thread; ``url`` is the address."""
        ready, loop = threading.Event(), asyncio.new_event_loop()

        async def start():
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self.respond)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            ready.set()
            return runner

        def run():
            runner = loop.run_until_complete(start())
            loop.run_forever()
            loop.run_until_complete(runner.cleanup())

        thread = threading.Thread(target=run)
        thread.start()
        ready.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
