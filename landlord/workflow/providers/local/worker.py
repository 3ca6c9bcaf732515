"""The worker of the ``local`` engine: claims runs, keeps their leases, executes them.

It never trusts its own clock against the database's: a lease is granted and judged by Postgres. Its own (monotonic)
clock only tells it to stop *earlier* than Postgres would give the run to somebody else, when it cannot ask.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import structlog

from landlord.workflow.execution import Execute, Worker
from landlord.workflow.provider import ProviderUnavailable
from landlord.workflow.providers.local.run import LetGo, Run
from landlord.workflow.providers.local.store import PURGE_BATCH, Store

CLAIM_BATCH = 64
"""Runs one claim takes at most, so that several workers share a burst."""
POLL = 1.0
"""Seconds between looks for runs whose worker died; new work is notified."""
GRACE = 5.0
"""Seconds that runs get to finish once the worker is to stop."""
LET_GO = 2.0
"""Seconds that unfinished ones then get to stop where they are."""
HAND_BACK_TIMEOUT = 2.0
"""Seconds for giving those back that did; the others wait for the end of their lease."""

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class LocalWorker(Worker):
    """Executes up to ``concurrency`` runs at a time. ``lease`` and ``retention`` are seconds."""

    def __init__(self, store: Store, execute: Execute, *, concurrency: int, lease: float, retention: float) -> None:
        self._store = store
        self._execute = execute
        self._concurrency = concurrency
        self._lease = lease
        self._retention = retention
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._runs: dict[str, Run] = {}
        self._wake = asyncio.Event()
        self._beat = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._available = True

    async def run(self, stop: asyncio.Event) -> None:
        """See :class:`landlord.workflow.execution.Worker`."""
        async with asyncio.TaskGroup() as group:
            claiming = group.create_task(self._claim(stop, group))
            serving = [
                group.create_task(self._keep_leases()),
                group.create_task(self._obey()),
                group.create_task(self._purge()),
            ]
            await stop.wait()
            self._wake.set()
            await asyncio.wait({claiming}, timeout=GRACE)
            claiming.cancel()
            await self._drain()
            for task in serving:
                task.cancel()

    async def _claim(self, stop: asyncio.Event, group: asyncio.TaskGroup) -> None:
        while not stop.is_set():
            self._wake.clear()
            free = min(self._concurrency - len(self._runs), CLAIM_BATCH)
            taken = 0
            if free > 0:
                asked_at = time.monotonic()
                # Not what is still in hand: a run whose lease the database takes for over must not be done twice here.
                claimed = await self._tried(
                    lambda: self._store.claim(most=free, worker=self._name, held=self._runs)  # noqa: B023
                )
                for item in claimed or ():
                    run = Run(item, store=self._store, execute=self._execute, lease=self._lease, asked_at=asked_at)
                    self._runs[item.hold.execution_id] = run
                    self._idle.clear()
                    group.create_task(self._work(run))
                taken = len(claimed or ())
            if taken < free or free <= 0:
                await _set_within(self._wake, POLL * _jitter())

    async def _work(self, run: Run) -> None:
        try:
            await run()
        except Exception:  # noqa: BLE001 - one run's misfortune: it is claimed again, a bounded number of times
            _log.exception("run abandoned", execution_id=run.hold.execution_id)
        finally:
            del self._runs[run.hold.execution_id]
            if not self._runs:
                self._idle.set()
            if len(self._runs) == self._concurrency - 1:
                self._wake.set()

    async def _keep_leases(self) -> None:
        while True:
            await _set_within(self._beat, min(self._lease / 3, 1.0) if self._available else self._lease / 10)
            self._beat.clear()
            await self._renew()

    async def _renew(self) -> None:
        runs = {run.hold: run for run in self._runs.values()}
        if not runs:
            return
        asked_at = time.monotonic()
        try:
            # A statement that hangs must leave time for another one.
            async with asyncio.timeout(self._lease / 3):
                standings = await self._tried(lambda: self._store.renew(list(runs)))
        except TimeoutError:
            return
        for hold, standing in (standings or {}).items():
            runs[hold].judge(standing, asked_at=asked_at)

    async def _obey(self) -> None:
        async with aclosing(self._store.orders()) as orders:
            async for order, execution_id in orders:
                if order != "cancel":
                    self._wake.set()
                if order != "work" and (not execution_id or execution_id in self._runs):
                    self._beat.set()  # the row says why, and whether the run is still ours

    async def _purge(self) -> None:
        pause = min(self._retention / 10, 600.0)
        purged: int | None = 0
        while True:
            await asyncio.sleep(0.1 if purged == PURGE_BATCH else pause * _jitter())
            purged = await self._tried(lambda: self._store.purge(retention=self._retention))

    async def _drain(self) -> None:
        await _set_within(self._idle, GRACE)
        if not (left := list(self._runs.values())):
            return
        for run in left:
            run.interrupt(LetGo.STOPPING)
        await _set_within(self._idle, LET_GO)
        # Of what does not let go something is still being done here: nobody else may have it yet.
        free = [run.hold for run in left if run.hold.execution_id not in self._runs]
        try:
            async with asyncio.timeout(HAND_BACK_TIMEOUT):
                await self._store.hand_back(free)
        except (TimeoutError, ProviderUnavailable):
            free = []
        if waiting := len(left) - len(free):
            _log.warning("runs could not be handed back: they wait for the end of their lease", runs=waiting)

    async def _tried(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """The result, or null (after a pause, logged once) while the database is away."""
        try:
            result = await call()
        except ProviderUnavailable as error:
            if self._available:
                _log.warning("the engine is unavailable", error=str(error))
            self._available = False
            await asyncio.sleep(0.5)
            return None
        if not self._available:
            _log.info("the engine is available again")
        self._available = True
        return result


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _jitter() -> float:
    """So that many workers do not all ask at once."""
    return random.uniform(0.8, 1.2)  # noqa: S311
