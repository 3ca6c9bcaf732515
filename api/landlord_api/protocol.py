"""What aiohttp answers by itself, because no request could be read, as a problem like every other error.

aiohttp has no public place for this: the protocol's ``handle_error`` is overridden, and runner and server only make
sure that it is this protocol which is used.
"""

from __future__ import annotations

import asyncio
import os

import structlog
from aiohttp import web

from landlord_api import problems
from landlord_api.envelope import REQUEST_ID, SERVER
from landlord_api.problems import Problem

_log = structlog.get_logger(__name__)


class Runner(web.AppRunner):
    """Serves an application with :class:`Protocol`."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            loop=asyncio.get_running_loop(),
            **made._kwargs,  # noqa: SLF001
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return Protocol(self, loop=self._loop, **self._kwargs)


class Protocol(web.RequestHandler):
    """Answers what is no HTTP, or exceeds the limits of a request's head, and closes the connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        request_id = os.urandom(16).hex()
        if status >= 500:
            _log.error("request failed unexpectedly", exc_info=exc, request_id=request_id)
        else:
            _log.debug("unreadable request", reason=type(exc).__name__, request_id=request_id)
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("part of an answer is sent already")
        detail = "this is no HTTP/1.1 request, or its head is too large" if status < 500 else "an internal error"
        answer = problems.response(Problem(status, detail), request_id=request_id)
        answer.headers[REQUEST_ID] = request_id
        answer.headers["Server"] = SERVER
        answer.force_close()
        return answer
