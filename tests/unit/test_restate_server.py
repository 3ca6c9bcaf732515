"""The connections of a Restate worker: whenever one comes, it is closed when the worker stops, without a word."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import h2.connection
import pytest

from landlord.workflow.providers.restate import server
from landlord.workflow.providers.restate.server import Receive, Send, Server


@pytest.fixture
async def complaints() -> AsyncIterator[list[dict[str, Any]]]:
    """What the loop had to say of errors that nobody took."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield found
    gc.collect()  # what was left open warns now, and warnings are errors


async def nothing(_: dict[str, Any], __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def greeting(*, asking: bool = False) -> bytes:
    """HTTP/2 with prior knowledge, RFC 9113 section 3.3."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    if asking:
        headers = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "worker"}
        connection.send_headers(1, list(headers.items()), end_stream=True)
    return bytes(connection.data_to_send())


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("sent", [b"", greeting()], ids=["nothing", "greeting"])
async def test_a_connection_that_comes_while_the_server_stops(
    complaints: list[dict[str, Any]], sent: bytes, turns: int
) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listening.getsockname()) as peer:
        peer.sendall(sent)
        peer.setblocking(False)
        async with asyncio.timeout(2):  # less than the server gives to what it has to flush
            async with Server(nothing).listening(listening) as refuse:
                for _ in range(turns):
                    await asyncio.sleep(0)
                await refuse()
            await end_of(peer)
    assert not complaints


async def test_an_answer_whose_connection_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that Restate cannot hear the end of does not last for ever."""
    monkeypatch.setattr(server, "SEND_TIMEOUT", 0.1)
    ended = asyncio.Event()

    async def late(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        try:
            await nothing(scope, receive, send)
        finally:
            ended.set()

    listening = socket.create_server(("127.0.0.1", 0))
    async with Server(late).listening(listening):
        with socket.create_connection(listening.getsockname()) as peer:
            peer.sendall(greeting(asking=True))
            await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            assert await ended.wait()


async def end_of(peer: socket.socket) -> None:
    with suppress(ConnectionResetError):  # it was never accepted
        while await asyncio.get_running_loop().sock_recv(peer, 65536):
            pass
