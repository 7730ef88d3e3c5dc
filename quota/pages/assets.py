"""Everything that a page loads comes from here: style, scripts, the warning element for others."""

import gzip
import hashlib
from importlib.resources import files
from typing import Final

import msgspec
from aiohttp import hdrs, web

from quota.api.describe import describe

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_A_WHILE: Final = "public, max-age=300"
_COMPRESS_FROM: Final = 500


class Asset(msgspec.Struct, frozen=True):
    """A file that browsers fetch."""

    body: bytes
    compressed: bytes | None
    content_type: str
    version: str
    """Of its content: an address with it never changes its meaning."""


class Assets:
    """The files below static/, read once."""

    def __init__(self) -> None:
        self._assets = {
            entry.name: _asset(entry.name, entry.read_bytes())
            for entry in files(__package__).joinpath("static").iterdir()
            if entry.name.rsplit(".", 1)[-1] in _TYPES
        }

    def routes(self) -> list[web.RouteDef]:
        """`GET /static/{name}`."""
        return [web.get("/static/{name}", self.get)]

    def url(self, name: str) -> str:
        """The address under which browsers may keep a file for ever."""
        return f"/static/{name}?v={self._assets[name].version}"

    @describe("pages", "Style and scripts.", scope=None, answers={200: str}, hidden=True)
    async def get(self, request: web.Request) -> web.Response:
        """Open to everybody: nothing of anybody is in it."""
        asset = self._assets.get(request.match_info["name"])
        if asset is None:
            raise web.HTTPNotFound
        etag = f'"{asset.version}"'
        known = request.query.get("v") == asset.version
        headers = {
            hdrs.CACHE_CONTROL: _FOR_EVER if known else _A_WHILE,
            hdrs.ETAG: etag,
            hdrs.VARY: hdrs.ACCEPT_ENCODING,
            "X-Content-Type-Options": "nosniff",
            # Other people's pages load the warning element, as a module or not.
            hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",
        }
        if etag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
            return web.Response(status=304, headers=headers)
        headers[hdrs.CONTENT_TYPE] = asset.content_type
        body = asset.body
        if asset.compressed and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            body = asset.compressed
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(body=body, headers=headers)


def _asset(name: str, body: bytes) -> Asset:
    compressed = gzip.compress(body, mtime=0) if len(body) >= _COMPRESS_FROM else None
    return Asset(
        body,
        compressed if compressed is not None and len(compressed) < len(body) else None,
        _TYPES[name.rsplit(".", 1)[-1]],
        hashlib.sha256(body).hexdigest()[:12],
    )
