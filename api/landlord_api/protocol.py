"""What aiohttp answers by itself, because no request could be read, as a problem like every other error.

aiohttp has no public place for this: methods of the protocol are overridden, and runner and server only make sure that
it is this protocol which is used.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong, TransferEncodingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo
from multidict import CIMultiDictProxy

from landlord_api import problems
from landlord_api.envelope import REQUEST_ID, SERVER
from landlord_api.problems import Problem

CONTINUE = "100-continue"
"""The one expectation there is."""
LONGEST_TARGET = 8_000
"""Bytes (RFC 9112, 3). A header field may have some more, which tells the two apart."""

_log = structlog.get_logger(__name__)


class Runner(web.AppRunner):
    """Serves an application with :class:`Protocol`."""

    __slots__ = ()

    def __init__(self, app: web.Application, **kwargs: Any) -> None:
        super().__init__(app, max_line_size=LONGEST_TARGET, **kwargs)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=_without_expectations(made.request_factory),
            loop=asyncio.get_running_loop(),
            **made._kwargs,  # noqa: SLF001
        )


def _without_expectations(factory: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Makes requests without an ``Expect`` that nobody understands. It may be passed over (RFC 9110, 10.1.1), which
    aiohttp does not: it answers 417 before any middleware could."""

    def make(message: RawRequestMessage, *parts: Any) -> web.BaseRequest:
        if message.headers.get("Expect", CONTINUE).lower() != CONTINUE:
            headers = message.headers.copy()
            del headers["Expect"]
            message = message._replace(headers=CIMultiDictProxy(headers))
        return factory(message, *parts)

    return make


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return Protocol(self, loop=self._loop, **self._kwargs)


class Protocol(web.RequestHandler):
    """Answers what is no HTTP, or exceeds the limits of a request's head, and closes the connection."""

    __slots__ = ("_body",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._body: StreamReader = EMPTY_PAYLOAD
        """Of the latest request: the only one that may still be under way."""

    def data_received(self, data: bytes) -> None:
        """Also say to a body that what should be its next part is no HTTP: who reads it would wait for ever."""
        super().data_received(data)
        if not self._messages:
            return
        message, body = self._messages[-1]
        if not isinstance(message, _ErrInfo):
            self._body = body
        elif not self._body.is_eof():
            self._body.set_exception(web.RequestPayloadError(message.message))

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """But for a body that breaks behind its answer: that is the client's affair."""
        if not isinstance(kwargs.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kwargs)

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
        answer = problems.response(_problem(status, exc), request_id=request_id)
        answer.headers[REQUEST_ID] = request_id
        answer.headers["Server"] = SERVER
        answer.force_close()
        return answer


def _problem(status: int, error: BaseException | None) -> Problem:
    if status >= 500:
        return Problem(status, "an internal error")
    match error:
        case ContentEncodingError() | TransferEncodingError():
            return problems.unreadable()
        case LineTooLong(args=(_, limit, *_)) if limit == LONGEST_TARGET:
            return Problem(414, f"the path and query must have at most {limit} bytes", kind="too-large")
        case LineTooLong(args=(_, limit, *_)):
            return Problem(431, f"each header field must have at most {limit} bytes", kind="too-large")
        case _:
            return Problem(status, "this is no HTTP/1.1 request that is understood here")
