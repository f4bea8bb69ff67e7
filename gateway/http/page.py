"""The web page of the API (a playground), and its documentation: static files, sent under a strict content policy."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aiohttp import web

from .middleware import public

_FOLDER = Path(__file__).resolve().parent.parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# ComfyUI with --disable-api-nodes puts a looser policy in the place of this one. So the files themselves have the
# policy too, as <meta>, which cannot say frame-ancestors: X-Frame-Options does.
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, and 304 as a rule
}


class PageRoutes:
    """``GET /`` (the page), ``/docs`` and ``/page/{name}``, which needs no token.

    ``mounted``: the page shares its origin with all of ComfyUI, so it keeps no token in the browser.
    """

    def __init__(self, *, auth: bool, mounted: bool) -> None:
        told = {"{auth}": str(auth).lower(), "{keep_token}": str(auth and not mounted).lower()}
        self._files: dict[str, tuple[bytes, str]] = {}  # name -> content, ETag
        for path in sorted(_FOLDER.iterdir()):
            if path.suffix in _TYPES:
                text = path.read_text("utf-8")
                for mark, value in told.items() if path.name == "index.html" else ():
                    text = text.replace(mark, value)
                content = text.encode()
                self._files[path.name] = content, hashlib.sha256(content).hexdigest()[:32]

    def root_routes(self) -> list[web.RouteDef]:
        """Return the route that a gateway also has without ``/v1``."""
        return [web.get("/", self.go_to_page)]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("", self.go_to_page),
            web.get("/", self.page),
            web.get("/docs", self.docs),
            web.get("/page/{name}", self.file),
        ]

    @public
    async def go_to_page(self, _: web.Request) -> web.Response:
        """Send the browser from ``/``, or from ``/v1``, to ``/v1/``; a prefix that a proxy adds stays."""
        return web.Response(status=302, headers={"Location": "v1/"})

    @public
    async def page(self, request: web.Request) -> web.Response:
        """Send the page."""
        return self._send(request, "index.html")

    @public
    async def docs(self, request: web.Request) -> web.Response:
        """Send the documentation."""
        return self._send(request, "docs.html")

    @public
    async def file(self, request: web.Request) -> web.Response:
        """Send a file that the page or the documentation needs."""
        return self._send(request, request.match_info["name"])

    def _send(self, request: web.Request, name: str) -> web.Response:
        if name not in self._files:
            raise web.HTTPNotFound
        content, tag = self._files[name]
        headers = {**_HEADERS, "ETag": f'"{tag}"'}
        if any(known.value in (tag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, content_type=_TYPES[Path(name).suffix], charset="utf-8", headers=headers)
