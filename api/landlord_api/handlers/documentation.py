"""OpenAPI and Swagger UI, all from this package: a browser asks nobody else for anything."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

import orjson
from aiohttp import web

STATIC = "/api/docs/static"
_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
    "initializer.js": "text/javascript",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Landlord API</title>
<link rel="stylesheet" href="{STATIC}/swagger-ui.css">
<link rel="icon" type="image/png" href="{STATIC}/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{STATIC}/swagger-ui-bundle.js"></script>
<script src="{STATIC}/initializer.js"></script>
</body>
</html>
"""


class DocumentationHandlers:
    """Serves ``document`` once it has been given."""

    def __init__(self) -> None:
        self._document = b"{}"

    def publish(self, document: dict[str, Any]) -> None:
        self._document = orjson.dumps(document)

    async def openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._document, headers={"Content-Type": "application/json"})

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(
            text=_PAGE, content_type="text/html", charset="utf-8", headers={"Content-Security-Policy": _POLICY}
        )

    async def file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _FILES:
            raise web.HTTPNotFound
        return web.Response(
            body=_read(name), headers={"Content-Type": _FILES[name], "Cache-Control": "public, max-age=86400"}
        )


@lru_cache
def _read(name: str) -> bytes:
    return files("landlord_api").joinpath("static", name).read_bytes()
