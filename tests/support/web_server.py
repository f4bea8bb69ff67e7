"""A real web server on loopback that does what one test wants."""

import contextlib

from aiohttp import web


@contextlib.asynccontextmanager
async def serve(handler, *, tls=None, port=0):
    """Respond to every request with ``handler``; yields the port."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def answers(*addresses):
    """Return a resolver that gives these addresses for every name, and a list of the names it was asked for."""
    asked = []

    async def resolve(host, port):
        asked.append(host)
        return list(addresses)

    return resolve, asked
