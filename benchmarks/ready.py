"""From POST to ready, without a cluster: one after the other, and a thousand at once."""

from __future__ import annotations

import asyncio
import time

from benchmarks import load, rows
from benchmarks.client import connected, post_all
from benchmarks.parts import Installation, Machine
from benchmarks.table import Row, milliseconds, quantile

ENGINES = ("local", "restate")
ONE_BY_ONE = 200
TOGETHER = 1000


async def single(machine: Machine) -> list[Row]:
    """Each tenant is seen ready by a client before the next is posted."""
    seen = {engine: await _one_by_one(machine, engine=engine) for engine in ENGINES}
    return [
        Row(
            what="POST to ready, mock compute, one by one",
            measured=seen["local"],
            restate=seen["restate"],
            aim="p50 at most 100 ms (Restate: 150 ms)",
        )
    ]


async def _one_by_one(machine: Machine, *, engine: str) -> str:
    times = []
    async with machine.installation(engine=engine) as installation:
        await installation.start("api", "worker", "controller")
        async with connected(installation.url) as client:
            for number in range(ONE_BY_ONE):
                began = time.perf_counter()
                status, answer = await client.request("POST", "/api/tenants", body=rows.BODY % f"one-{number}")
                assert status == 202, answer
                await client.until_ready(f"one-{number}")
                times.append(time.perf_counter() - began)
    return f"p50 {milliseconds(quantile(times, 0.5))}, p99 {milliseconds(quantile(times, 0.99))}"


async def thousand(machine: Machine) -> list[Row]:
    """Posted at 32 connections; the clock starts with the first request."""
    seen = {engine: await _together(machine, engine=engine) for engine in ENGINES}
    return [
        Row(
            what=f"{TOGETHER:,} POSTs at once, all ready in Postgres",
            measured=seen["local"],
            restate=seen["restate"],
            aim="at most 5 s (Restate: 10 s)",
        )
    ]


async def _together(machine: Machine, *, engine: str) -> str:
    async with machine.installation(engine=engine) as installation:
        await installation.start("api", "worker", "controller")
        began = time.perf_counter()
        await post_thousand(installation)
        posted = time.perf_counter() - began
        await all_ready(installation)
        return f"{time.perf_counter() - began:.2f} s (all answered after {posted:.2f} s)"


async def post_thousand(installation: Installation) -> None:
    bodies = [rows.BODY % f"burst-{number}" for number in range(TOGETHER)]
    await post_all(installation.url, path="/api/tenants", bodies=bodies, connections=load.CONNECTIONS)


async def all_ready(installation: Installation) -> None:
    """Return when Postgres has them all ready."""
    async with installation.sql() as connection:
        while True:
            found = await connection.execute("select count(*) from tenants where status = 'ready'")
            if await found.fetchone() == (TOGETHER,):
                return
            await asyncio.sleep(0.05)
