"""The HTTP/2 server that Restate calls: hypercorn speaks, and every connection is known here until it is closed.

hypercorn's own serving functions wait in vain for connections that have asked nothing yet, then log a traceback.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.utils import wrap_app

ACCEPTED_IN = 2
"""Turns of asyncio's loop from a connection's being accepted to its being served."""
SEND_TIMEOUT = 60.0
"""Seconds that Restate gets to take a part of an answer; hypercorn would wait for ever where the connection is gone."""
LAST_WORDS = 0.2
"""Seconds in which connections without a call under way close by themselves once the server stops."""
FLUSH = 3.0
"""Seconds that what was written to the others gets to leave."""

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
"""ASGI 3: https://asgi.readthedocs.io/en/latest/specs/main.html. Gets no lifespan events."""
_log = structlog.get_logger(__name__)


class Server:
    """Serves ``application`` without TLS (h2c)."""

    def __init__(self, application: Application) -> None:
        self._application = wrap_app(_impatient(application), 0, "asgi")  # type: ignore[arg-type]
        self._config = _config()
        self._context = WorkerContext(None)
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @asynccontextmanager
    async def listening(self, to: socket.socket) -> AsyncGenerator[Callable[[], Awaitable[None]], None]:
        """Gives what ends the listening. Calls under way go on until the block is left, which closes every connection
        and ``to``."""
        server = await asyncio.start_server(self._connected, sock=to)

        async def refuse() -> None:
            if not server.is_serving():
                return
            # asyncio leaves a connection open for ever if its server closes between accepting and serving it.
            asyncio.get_running_loop().remove_reader(to)
            for _ in range(ACCEPTED_IN):
                await asyncio.sleep(0)
            server.close()
            await self._context.terminated.set()

        try:
            yield refuse
        finally:
            await refuse()
            await self._close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._served)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            await TCPServer(self._application, loop, self._config, self._context, {}, reader, writer)
        except Exception as error:  # noqa: BLE001 - the border of one connection: Restate opens another
            _log.warning("a connection of Restate's was broken off", error=type(error).__name__)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).transport.abort()

    async def _close(self) -> None:
        await self._wait(LAST_WORDS)
        for writer in self._connections.values():
            writer.close()
        await self._wait(FLUSH)
        for task in self._connections:
            task.cancel()
        await self._wait(FLUSH)

    async def _wait(self, seconds: float) -> None:
        if self._connections:
            await asyncio.wait(self._connections, timeout=seconds)


def _impatient(application: Application) -> Application:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        async def send_in_time(message: dict[str, Any]) -> None:
            async with asyncio.timeout(SEND_TIMEOUT):
                await send(message)

        await application(scope, receive, send_in_time)

    return app


def _config() -> Config:
    config = Config()
    config.errorlog = logging.getLogger("hypercorn")
    # Restate keeps its connections, for as many runs as it has.
    config.h2_max_concurrent_streams = 1000
    config.keep_alive_max_requests = 2**31
    config.keep_alive_timeout = 600
    return config
