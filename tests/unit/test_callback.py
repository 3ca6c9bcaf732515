"""Callbacks to an API that does not answer: bounded, and in nobody's way."""

from __future__ import annotations

import asyncio
import time

import pytest
import structlog.testing
from aiohttp import web  # noqa: TID251 - the API that is told
from aiohttp.test_utils import TestServer

from landlord.settings import Settings
from landlord.workflow.callback import AT_ONCE, GRACE, TIMEOUT, WAITING, Callbacks
from landlord.workflow.metrics import CALLBACKS


def dropped() -> float:
    return float(CALLBACKS.labels("dropped")._value.get())


async def test_an_api_that_hangs_holds_nobody_up() -> None:
    connections: list[asyncio.StreamWriter] = []

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        callbacks = Callbacks(settings=Settings(callback_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        before = dropped()
        async with callbacks.running():
            for number in range(AT_ONCE):
                callbacks.send(f"tenant-{number}-plan")
            async with asyncio.timeout(TIMEOUT):
                while len(connections) < AT_ONCE:
                    await asyncio.sleep(0.01)
            began = time.perf_counter()
            for number in range(200):
                callbacks.send(f"tenant-{number}-provision")
            assert dropped() - before == 200 - WAITING
        assert time.perf_counter() - began < GRACE + 2
        for writer in connections:
            writer.close()


async def test_an_address_that_could_be_nobodys_is_told_and_ends_no_sender() -> None:
    callbacks = Callbacks(settings=Settings(callback_url="http://api..svc:8080"))
    with structlog.testing.capture_logs() as logs:
        async with callbacks.running(), asyncio.timeout(10):
            for number in range(2 * AT_ONCE):
                callbacks.send(f"tenant-{number}-plan")
            await callbacks._queue.join()
    assert [log["reason"] for log in logs] == ["the API cannot be reached"]


@pytest.mark.parametrize(
    ("answers", "reasons"),
    [
        ([503, 500, 202], []),
        ([503] * 3, ["the API answers 503"]),
        ([401], ["the API answers 401: check LANDLORD_CALLBACK_TOKEN"]),
        ([404], []),
        ([307], ["the API answers 307: check LANDLORD_CALLBACK_TOKEN"]),
    ],
)
async def test_what_may_pass_is_tried_again_and_no_other(
    answers: list[int], reasons: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landlord.workflow.callback.TRIES", (0.01, 0.01))
    left = list(answers)
    heard: list[tuple[str, str | None]] = []

    async def answer(request: web.Request) -> web.Response:
        heard.append((request.path, request.headers.get("authorization")))
        return web.Response(status=left.pop(0), headers={"location": "/elsewhere"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        address = f"http://127.0.0.1:{server.port}/"
        callbacks = Callbacks(settings=Settings(callback_url=address, callback_token="t" * 32))
        with structlog.testing.capture_logs() as logs:
            async with callbacks.running():
                callbacks.send("tenant-acme-plan")
                await callbacks._queue.join()
    assert heard == [("/api/executions/tenant-acme-plan/callback", "Bearer " + "t" * 32)] * len(answers)
    assert [log["reason"] for log in logs] == reasons


async def test_nothing_is_kept_where_nobody_is_to_be_told() -> None:
    callbacks = Callbacks(settings=Settings())
    before = dropped()
    for number in range(2 * WAITING):
        callbacks.send(f"tenant-{number}-plan")
    assert dropped() == before


@pytest.mark.parametrize("url", ["ftp://api", "http://user@api", "http://api/path", "http://api?x=1"])
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="callback_url"):
        Settings(callback_url=url)
