"""A worker's word to the API that a run has ended, so that nobody waits for the next poll.

It is a hint and no more: whoever takes it asks the engine. So nothing is recorded, little is tried again, and what is
too much is dropped: where many runs end at once, one poll tells of all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import aiohttp
import structlog

from landlord.settings import Settings
from landlord.workflow.metrics import CALLBACKS

AT_ONCE = 8
WAITING = 64
TIMEOUT = 2.0
"""Seconds for one try."""
TRIES = (0.2, 1.0)
"""Seconds before the second and the third try; after those a poll is no later."""
GRACE = 1.0
"""Seconds to send what waits when the worker stops."""

_log = structlog.get_logger(__name__)


class Callbacks:
    """To ``LANDLORD_CALLBACK_URL``; nothing is sent where that is not set, or outside :meth:`running`."""

    def __init__(self, *, settings: Settings) -> None:
        self._url = None if settings.callback_url is None else settings.callback_url.rstrip("/")
        self._token = settings.callback_token
        self._queue: asyncio.Queue[str] = asyncio.Queue(maxsize=WAITING)
        self._fault = ""

    def send(self, execution_id: str) -> None:
        """Say soon that this run has ended."""
        if self._url is None:
            return
        try:
            self._queue.put_nowait(execution_id)
        except asyncio.QueueFull:
            CALLBACKS.labels("dropped").inc()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Send while the context lasts, and for a moment what is left then."""
        headers = {} if self._token is None else {"authorization": f"Bearer {self._token.get_secret_value()}"}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session:
            senders = [asyncio.create_task(self._serve(session)) for _ in range(AT_ONCE)]
            try:
                yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(GRACE):
                        await self._queue.join()
            finally:
                for sender in senders:
                    sender.cancel()
                await asyncio.gather(*senders, return_exceptions=True)

    async def _serve(self, session: aiohttp.ClientSession) -> None:
        while True:
            execution_id = await self._queue.get()
            try:
                await self._deliver(session, execution_id)
            finally:
                self._queue.task_done()

    async def _deliver(self, session: aiohttp.ClientSession, execution_id: str) -> None:
        for pause in (*TRIES, None):
            status = await self._post(session, execution_id)
            if status is None or status >= 500:
                if pause is not None:
                    await asyncio.sleep(pause)
                continue
            # An unknown id is somebody else's: another installation's API, or one whose database was restored.
            self._told("" if status in (202, 404) else f"the API answers {status}: check LANDLORD_CALLBACK_TOKEN")
            CALLBACKS.labels("ok" if status == 202 else "refused").inc()
            return
        self._told("the API cannot be reached" if status is None else f"the API answers {status}")
        CALLBACKS.labels("failed").inc()

    async def _post(self, session: aiohttp.ClientSession, execution_id: str) -> int | None:
        url = f"{self._url}/api/executions/{execution_id}/callback"
        try:
            # A redirect could carry the token elsewhere.
            async with session.post(url, allow_redirects=False) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError):
            return None  # the last where the host could be nobody's name

    def _told(self, fault: str) -> None:
        """Log what is wrong once, until it is something else."""
        if fault and fault != self._fault:
            _log.warning("callbacks do not arrive: ends of runs are noticed later", reason=fault)
        elif self._fault and not fault:
            _log.info("callbacks arrive again")
        self._fault = fault
