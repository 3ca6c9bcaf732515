"""One run in the hands of one worker: its steps, its end, and the reasons to let go of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, TypeVar

import orjson
import structlog

from landlord.workflow.execution import Execute
from landlord.workflow.provider import ExecutionState, ProviderUnavailable, RunFailed, WorkflowFailure
from landlord.workflow.providers.local.store import Checkpoint, Claimed, Ending, Standing, Store, cancelled

MOST_ATTEMPTS = 10
"""Claims of one run. Every one but the last ended with its worker dying or losing its lease: the run may be why."""

RETRY_WRITE = 0.25
"""Seconds between tries of a write that the database did not take."""

Result = TypeVar("Result")
_log = structlog.get_logger(__name__)


class LetGo(Enum):
    """Why a run is interrupted here, without an end of its own."""

    LOST = "lost"
    """The lease is over: another worker may have it, and nothing may be written."""
    STOPPING = "stopping"
    """This worker is going away and hands the run back."""


class Run:
    """Executes one claimed run.

    :meth:`judge` takes the store's word on it; :meth:`interrupt` stops it where it is. It stops itself when nobody has
    renewed its lease in time: by then another worker may have it.
    """

    def __init__(self, claimed: Claimed, *, store: Store, execute: Execute, lease: float, asked_at: float) -> None:
        self.hold = claimed.hold
        self._claimed = claimed
        self._store = store
        self._execute = execute
        self._lease = lease
        self._held_until = asked_at + lease
        self._done = dict(claimed.done)
        self._cancel_reason = claimed.cancel_reason
        self._let_go: LetGo | None = None
        self._recording = False
        self._expiry: asyncio.TimerHandle | None = None
        self._step: str | None = None
        self._task: asyncio.Task[Any] | None = None

    def judge(self, standing: Standing, *, asked_at: float) -> None:
        """Take the store's word, of a statement sent at ``asked_at`` (``time.monotonic``)."""
        if not standing.held:
            if not self._recording:  # else it may be over because its end is recorded; who records it is told
                self.interrupt(LetGo.LOST)
            return
        self._held_until = max(self._held_until, asked_at + self._lease)
        if standing.cancel_reason is not None and self._cancel_reason is None and self._let_go is None:
            self._cancel_reason = standing.cancel_reason
            if self._task is not None and not self._recording:
                self._task.cancel()

    def interrupt(self, why: LetGo) -> None:
        """Stop where it is and write nothing more."""
        if self._let_go is None:
            self._let_go = why
            if self._task is not None:
                self._task.cancel()

    def _watch(self) -> None:
        """Look again when the lease is over; let go if it is over now."""
        left = self._held_until - time.monotonic()
        if left <= 0:
            self.interrupt(LetGo.LOST)
        else:
            self._expiry = asyncio.get_running_loop().call_later(left, self._watch)

    async def __call__(self) -> None:
        """Execute to the end and record it. Returns early, with nothing recorded, once :meth:`interrupt` was called."""
        log = _log.bind(execution_id=self.hold.execution_id, attempt=self._claimed.attempt)
        self._task = asyncio.current_task()
        self._watch()
        if self._let_go is not None:
            return
        try:
            ending = await self._outcome()
            self._recording = True
            if await self._written(lambda: self._store.finish(ending)):
                why = {} if ending.failure is None else {"code": ending.failure.code}
                log.info("run ended", state=ending.state.value, **why)
            else:
                log.warning("run was lost before its end could be recorded")
        except asyncio.CancelledError:
            if self._let_go is None:
                raise
            log.warning("run let go", why=self._let_go.value, step=self._step)
        finally:
            if self._expiry is not None:
                self._expiry.cancel()

    async def _outcome(self) -> Ending:
        if self._claimed.attempt > MOST_ATTEMPTS:
            return self._failed(WorkflowFailure(code="WorkerLost", message=f"{MOST_ATTEMPTS} workers lost this run"))
        try:
            if self._cancel_reason is None:
                output = await self._execute(self._claimed.payload, self.step)
                return Ending(hold=self.hold, state=ExecutionState.SUCCEEDED, output=orjson.dumps(output).decode())
        except RunFailed as error:
            return self._failed(error.failure)
        except asyncio.CancelledError:
            if self._let_go is not None or self._cancel_reason is None:
                raise
            assert self._task is not None
            self._task.uncancel()
        except Exception as error:  # noqa: BLE001 - whatever a workflow raises is the end of its run only
            _log.exception("run broke off", execution_id=self.hold.execution_id, step=self._step)
            return self._failed(
                WorkflowFailure(code="InternalError", message=f"unexpected {type(error).__name__}", step=self._step)
            )
        failure = cancelled(self._cancel_reason or "")
        return Ending(hold=self.hold, state=ExecutionState.CANCELLED, failure=failure)

    async def step(self, name: str, action: Callable[[], Awaitable[Any]], /) -> Any:
        """See :class:`landlord.workflow.execution.Step`."""
        if name in self._done:
            return self._done[name]
        self._step = name
        output = orjson.dumps(await action())
        if self._let_go is not None or self._cancel_reason is not None:
            raise asyncio.CancelledError  # once more: the action has kept it to itself
        checkpoint = Checkpoint(hold=self.hold, name=name, output=output.decode())
        asked_at = time.monotonic()
        self.judge(await self._written(lambda: self._store.checkpoint(checkpoint)), asked_at=asked_at)
        await asyncio.sleep(0)  # where a cancellation that was just learnt takes effect
        self._done[name] = orjson.loads(output)
        return self._done[name]

    def _failed(self, failure: WorkflowFailure) -> Ending:
        return Ending(hold=self.hold, state=ExecutionState.FAILED, failure=failure)

    async def _written(self, write: Callable[[], Awaitable[Result]]) -> Result:
        """Retry through an outage, until the run is interrupted because its lease is over."""
        while True:
            try:
                return await write()
            except ProviderUnavailable:
                await asyncio.sleep(RETRY_WRITE)
