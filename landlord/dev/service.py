"""One of Landlord's own processes under ``landlord dev``: started, watched, started again when it ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import structlog

from landlord.dev import processes
from landlord.dev.ports import listens
from landlord.dev.processes import Child, LauncherError

RESTART = 1.0
"""Seconds before a process that ended is started again; doubles up to :data:`RESTART_LIMIT`."""
RESTART_LIMIT = 30.0
START_TIMEOUT = 60.0
STOP_TIMEOUT = 8.0

_log = structlog.get_logger(__name__)


class Service:
    """``landlord NAME`` as a child process with an address where it says whether it is ready."""

    def __init__(self, name: str, *, port: int, environment: Mapping[str, str], log: Path, nice: int) -> None:
        self.name = name
        self.address = f"http://127.0.0.1:{port}"
        self._port = port
        self.log = log
        self._environment = environment
        self._nice = nice
        self._child: Child | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and return when it is ready. Raises :class:`LauncherError` if it does not get so far."""
        self._child = await self._spawn()
        await processes.until(self.ready, child=self._child, timeout=START_TIMEOUT)
        self._watch = asyncio.get_running_loop().create_task(self._keep(), name=f"keep {self.name}")

    async def stop(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        child, self._child = self._child, None
        if child is not None:
            await child.stop(timeout=STOP_TIMEOUT)

    async def ready(self) -> bool:
        """Whether it says that it serves: itself, and not another that has its port."""
        if self._child is None or not listens(self._child.pid, port=self._port):
            return False
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
                session.get(f"{self.address}/readyz") as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def _spawn(self) -> Child:
        return await processes.start(
            [sys.executable, "-m", "landlord", self.name],
            name=self.name,
            log=self.log,
            nice=self._nice,
            environment=self._environment,
        )

    async def _keep(self) -> None:
        """As a Deployment would: what ends is started again."""
        delay = RESTART
        loop = asyncio.get_running_loop()
        while True:
            child = self._child
            assert child is not None
            began = loop.time()
            status = await child.wait()
            if loop.time() - began > RESTART_LIMIT:
                delay = RESTART
            _log.warning("ended, and is started again", process=self.name, status=status, seconds=delay)
            await child.kill()  # and whatever it had started
            await asyncio.sleep(delay)
            delay = min(2 * delay, RESTART_LIMIT)
            try:
                self._child = await self._spawn()
            except (OSError, LauncherError) as error:
                _log.warning("cannot start", process=self.name, error=type(error).__name__)
