"""A client for bursts of an exact number of requests, and for waiting: as little Python as there can be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

LOOK = 0.003
"""Seconds between two looks at a tenant that is on its way."""


class Client:
    """One connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def request(self, method: str, path: str, *, body: str = "") -> tuple[int, bytes]:
        """The status and the body of the answer."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(f"{head}\r\n{body}".encode("ascii"))
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        _, _, rest = answer.partition("content-length:")
        return int(answer[9:12]), await self._reader.readexactly(int(rest.partition("\r\n")[0]))

    async def until_ready(self, tenant_id: str) -> None:
        """Look at the tenant again and again until it is ready."""
        while b'"status":"ready"' not in (await self.request("GET", f"/api/tenants/{tenant_id}"))[1]:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A client of the server at ``url``."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Client(reader, writer, host=parts.netloc)
    finally:
        writer.close()


async def post_all(url: str, *, path: str, bodies: Sequence[str], connections: int) -> None:
    """POST every body once, over so many connections. Raises ``RuntimeError`` for one that is not accepted."""
    left = iter(bodies)

    async def post() -> None:
        async with connected(url) as client:
            for body in left:
                status, answer = await client.request("POST", path, body=body)
                if status != 202:
                    raise RuntimeError(f"POST {path}: {status} {answer[:300]!r}")

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(post())
