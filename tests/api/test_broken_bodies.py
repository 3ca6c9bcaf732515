"""Bodies that break while they are read, on real connections: their clients' affair, and told to them at once."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import orjson
import pytest
import structlog
from fixtures.rest import listening

from landlord.settings import Settings

POST = b"POST /api/tenants HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
DELETE = b"DELETE /api/tenants/nobody HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CUT_OFF = zlib.compress(b"{}")[:-6]
Log = MutableMapping[str, Any]


@pytest.fixture
async def port(settings: Settings) -> AsyncIterator[int]:
    """Of the served API. That it ends soon shows that no connection holds it up."""
    own = {"api_port": 0, "workflow_provider": "mock", "kubernetes_mirror": False}
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(listening(settings.model_copy(update=own)))
        yield int(url.rsplit(":", 1)[1])
        async with asyncio.timeout(5):
            await stack.aclose()


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> Iterator[list[Log]]:
    """What is logged, by us. Neither that nor what aiohttp logs may be a warning or an error."""
    caplog.set_level(logging.DEBUG, logger="landlord_api.access")
    with structlog.testing.capture_logs() as captured:
        yield captured
    assert [each for each in captured if each["log_level"] not in ("debug", "info")] == []
    assert [each.getMessage() for each in caplog.get_records("call") if each.levelno >= logging.WARNING] == []


async def answer(port: int, *parts: bytes) -> tuple[str, dict[str, str], Any]:
    """Version, headers and problem that answer what is written bit by bit; then the connection must be closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.transport.abort()
    status, *lines = head.decode().split("\r\n")
    return status.split(" ")[0], dict(line.split(": ", 1) for line in lines), orjson.loads(body)


@pytest.mark.parametrize(
    "parts",
    [
        [POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"],
        [POST + b"Content-Encoding: deflate\r\nContent-Length: 2\r\n\r\n{}"],
        [POST + b"Content-Encoding: gzip\r\n" + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n"],
        [POST + b"Content-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(CUT_OFF), CUT_OFF],
        [POST + CHUNKED + b"2\r\n{}\r\n", b"no chunk\r\n"],
        [POST + CHUNKED, b"no chunk\r\n"],
    ],
)
async def test_what_cannot_be_read_is_answered_at_once(port: int, logs: list[Log], parts: list[bytes]) -> None:
    version, headers, problem = await answer(port, *parts)
    assert (problem["status"], problem["detail"]) == (400, "the body cannot be read")
    assert version == "HTTP/1.0" or headers["Connection"] == "close"
    assert len([each for each in logs if each["log_level"] == "debug"]) == 1


@pytest.mark.parametrize(
    "parts",
    [
        [DELETE + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"],
        [DELETE + CHUNKED + b"2\r\n{}\r\n", b"no chunk\r\n"],
    ],
)
async def test_what_nobody_reads_may_break_too(port: int, logs: list[Log], parts: list[bytes]) -> None:
    *_, problem = await answer(port, *parts)
    assert problem["status"] == 404
    assert [each["status"] for each in logs if each["event"] == "request"] == [404]


async def test_a_client_that_goes_away(port: int, logs: list[Log]) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(POST + b"Content-Length: 1000\r\n\r\n{")
    await asyncio.sleep(0.1)
    writer.transport.abort()
    async with asyncio.timeout(5):
        while not (requests := [each["status"] for each in logs if each["event"] == "request"]):
            await asyncio.sleep(0.01)
    assert requests == [400]
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as metrics:
        assert 'method="POST",route="/api/tenants",status="500"' not in await metrics.text()
