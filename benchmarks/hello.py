"""The limit of every HTTP figure: aiohttp answering ``{}``, as bare as it can be, on the loop that we use."""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web  # noqa: TID251 - it serves


async def answer(_: web.Request) -> web.Response:
    return web.Response(body=b"{}", content_type="application/json")


def main(port: int) -> None:
    app = web.Application()
    app.router.add_get("/", answer)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main(int(sys.argv[1]))
