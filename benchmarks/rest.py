"""Requests a second at 32 connections, beside what aiohttp and Postgres can do at all."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import orjson

from benchmarks import limits, load, parts, rows
from benchmarks.client import connected
from benchmarks.load import Ids, Load
from benchmarks.parts import Installation, Machine
from benchmarks.table import Row, milliseconds, percent, rate, spread

LISTED = 100_000
DRAIN = 2
"""Rounds with worker and controller running: each leaves them a backlog."""


async def requests(machine: Machine) -> list[Row]:
    """POST and GET with API and Postgres alone."""
    empty: list[float] = []
    inserts: list[float] = []
    posts: list[Load] = []
    gets: list[Load] = []
    async with machine.installation() as installation, parts.hello(folder=machine.folder) as hello:
        await installation.start("api")
        for number in range(machine.rounds):
            ids = Ids(prefix=f"round{number}-")
            empty.append((await load.run(hello, seconds=machine.seconds)).rate)
            inserts.append(await limits.pgbench(machine))
            posts.append(await _post(installation, ids, seconds=machine.seconds))
            known = Ids(prefix=ids.prefix, most=int(posts[-1].rate * machine.seconds * 0.9), step=7)
            gets.append(await load.run(installation.url, seconds=machine.seconds, path="/api/tenants/%s", ids=known))
    return [
        Row(what="limit: aiohttp answering {}", measured=spread(empty, rate)),
        Row(what="limit: pgbench, one insert a transaction", measured=spread(inserts, rate)),
        _row("POST with trigger, API and Postgres alone", posts, empty, aim="20 %"),
        _row("GET of one tenant", gets, empty, aim="35 %"),
    ]


async def busy(machine: Machine) -> list[Row]:
    """POST while worker and controller work on what was posted."""
    empty: list[float] = []
    posts: list[Load] = []
    async with machine.installation() as installation, parts.hello(folder=machine.folder) as hello:
        await installation.start("api", "worker", "controller")
        for number in range(min(machine.rounds, DRAIN)):
            empty.append((await load.run(hello, seconds=machine.seconds)).rate)
            posts.append(await _post(installation, Ids(prefix=f"round{number}-"), seconds=machine.seconds))
    return [_row("POST with trigger, worker and controller working", posts, empty)]


async def _post(installation: Installation, ids: Ids, *, seconds: float) -> Load:
    return await load.run(
        installation.url, seconds=seconds, method="POST", path="/api/tenants", body=rows.BODY, ids=ids
    )


def _row(what: str, seen: Sequence[Load], empty: Sequence[float], *, aim: str = "") -> Row:
    shares = [one.rate / limit for one, limit in zip(seen, empty, strict=True)]
    latency = f"p50 {_middle([one.p50 for one in seen])}, p99 {_middle([one.p99 for one in seen])}"
    return Row(
        what=what,
        measured=f"{spread([one.rate for one in seen], rate)}, {latency}",
        limit=f"{rate(statistics.median(empty))} (aiohttp)",
        share=spread(shares, percent),
        aim=f"at least {aim} of aiohttp" if aim else "",
    )


def _middle(values: Sequence[float]) -> str:
    return milliseconds(statistics.median(values))


async def pages(machine: Machine) -> list[Row]:
    """A page of 100 at three depths of 100,000 tenants, by one client."""
    async with machine.installation() as installation:
        await installation.start("api", "worker", "controller")
        await rows.fill(installation, count=LISTED)
        await installation.stop()
        await installation.start("api")
        found = []
        for what, cursor in (await _cursors(installation)).items():
            path = f"/api/tenants?limit=100{cursor}"
            seen = await load.run(installation.url, seconds=machine.seconds, path=path, connections=1)
            found.append(
                Row(
                    what=f"list: page of 100 of {LISTED:,}, {what}",
                    measured=f"p50 {milliseconds(seen.p50)}, p99 {milliseconds(seen.p99)}",
                    aim="at most 10 ms",
                )
            )
        return found


async def _cursors(installation: Installation) -> dict[str, str]:
    """Walks the whole list, as a client would."""
    cursors = [""]
    async with connected(installation.url) as client:
        while True:
            _, answer = await client.request("GET", f"/api/tenants?limit=1000{cursors[-1]}")
            following = orjson.loads(answer)["next_cursor"]
            if following is None:
                break
            cursors.append(f"&cursor={following}")
    return {"start": cursors[0], "middle": cursors[len(cursors) // 2], "end": cursors[-2]}
