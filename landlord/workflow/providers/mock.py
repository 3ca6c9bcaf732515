"""An engine in memory whose outcomes and faults are scripted: for tests of whatever uses Landlord's workflow interface.

    provider = MockProvider()
    provider.script("tenant-acme-provision", Fail(code="ImageUnknown", message="no such image", permanent=True))
    provider.unavailable(times=2)

Not durable and for one process: everything is gone with the object.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson

from landlord.settings import Settings
from landlord.workflow.execution import Execute, Step, Worker
from landlord.workflow.provider import (
    ExecutionInfo,
    ExecutionNotFound,
    ExecutionState,
    ProviderUnavailable,
    RunFailed,
    TriggerResult,
    TriggerTimeout,
    WorkflowFailure,
    WorkflowProvider,
    WorkflowRequest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeed:
    """End with this output, ``after`` seconds."""

    output: Any = None
    after: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """End with this failure, ``after`` seconds."""

    code: str = "Scripted"
    message: str = "failed as scripted"
    permanent: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    state: ExecutionState = ExecutionState.FAILED
    """``failed`` or ``timed_out``."""
    after: float = 0

    @property
    def failure(self) -> WorkflowFailure:
        return WorkflowFailure(code=self.code, message=self.message, permanent=self.permanent, details=self.details)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """Stay in a state until cancelled or :meth:`MockProvider.finish`."""

    state: ExecutionState = ExecutionState.RUNNING
    failure: WorkflowFailure | None = None
    """Of the last try, where the state is ``retrying`` or ``paused``."""
    attempt: int = 1
    heeds_cancel: bool = True
    """False as if no worker answered: only a forced cancel ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Really execute it, by a worker in this process (:meth:`MockProvider.worker`); pending until there is one."""


Outcome = Succeed | Fail | Stay | Work


@dataclass(slots=True, kw_only=True)
class _Run:
    request: WorkflowRequest
    outcome: Outcome
    info: ExecutionInfo
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None
    reason: str | None = None
    """Of the cancel that was asked for."""


class MockProvider(WorkflowProvider):
    """Keeps runs in memory. ``default`` is the outcome of runs without a script of their own."""

    name = "mock"

    def __init__(self, *, settings: Settings | None = None) -> None:
        self.default: Outcome = Succeed()
        self.requests: list[WorkflowRequest] = []
        """Every trigger that reached the engine, repeats too."""
        self.cancels: list[tuple[str, bool]] = []
        """Every cancel that reached the engine: id and ``force``."""
        self._scripts: defaultdict[str, deque[Outcome]] = defaultdict(deque)
        self._runs: dict[str, _Run] = {}
        self._listeners: set[asyncio.Queue[str]] = set()
        self._work: asyncio.Event = asyncio.Event()
        self._away: float = 0
        self._lost: int = 0
        self._unanswered: int = 0

    # Scripts and faults.

    def script(self, execution_id: str, *outcomes: Outcome) -> None:
        """Outcomes of the next runs with this id (a second one only after :meth:`forget`)."""
        self._scripts[execution_id].extend(outcomes)

    def unavailable(self, *, times: int | None = None) -> None:
        """The next ``times`` calls raise ``ProviderUnavailable``; all until :meth:`restore` by default."""
        self._away = float("inf") if times is None else times

    def lose_triggers(self, times: int = 1) -> None:
        """The next triggers raise ``TriggerTimeout`` and start nothing."""
        self._lost = times

    def leave_triggers_unanswered(self, times: int = 1) -> None:
        """The next triggers raise ``TriggerTimeout`` though they did start the run."""
        self._unanswered = times

    def restore(self) -> None:
        """No more faults."""
        self._away = self._lost = self._unanswered = 0

    def forget(self, execution_id: str) -> None:
        """As if the engine had lost its memory of the run."""
        if (run := self._runs.pop(execution_id, None)) is not None:
            self._still(run)

    def finish(self, execution_id: str, outcome: Succeed | Fail | None = None) -> None:
        """End a run now and push its completion."""
        self._end(self._runs[execution_id], outcome or Succeed())

    # The provider.

    async def close(self) -> None:
        for run in self._runs.values():
            self._still(run)

    async def ready(self) -> None:
        self._reach()

    async def trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        self.check(request)
        self._reach()
        if self._lost > 0:
            self._lost -= 1
            raise TriggerTimeout("mock: no answer (the trigger was lost)")
        self.requests.append(request)
        run = self._runs.get(request.execution_id)
        if created := run is None:
            run = self._start(request)
        if self._unanswered > 0:
            self._unanswered -= 1
            raise TriggerTimeout("mock: no answer (the run was started)")
        return TriggerResult(execution_id=request.execution_id, created=created, digest=run.request.digest)

    async def get_many(self, execution_ids: Sequence[str]) -> dict[str, ExecutionInfo]:
        self._reach()
        return {name: self._runs[name].info for name in execution_ids if name in self._runs}

    async def cancel(self, execution_id: str, *, reason: str, force: bool = False) -> None:
        self._reach()
        if (run := self._runs.get(execution_id)) is None:
            raise ExecutionNotFound(f"mock does not know execution {execution_id}")
        self.cancels.append((execution_id, force))
        if run.info.state.ended:
            return
        run.reason = reason
        if isinstance(run.outcome, Stay) and not run.outcome.heeds_cancel and not force:
            return
        if run.task is not None and not force:
            run.task.cancel()
        else:
            self._cancelled(run)

    async def completions(self) -> AsyncGenerator[str, None]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    def worker(self, execute: Execute) -> _MockWorker:
        """Executes the runs whose outcome is :class:`Work`; what still runs when it is to stop is waited for."""
        return _MockWorker(partial(self._serve, execute))

    async def _serve(self, execute: Execute, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(stop.wait())
            while not stop.is_set():
                self._work.clear()
                for run in self._runs.values():
                    if run.info.state is ExecutionState.PENDING and isinstance(run.outcome, Work):
                        run.info = replace(run.info, state=ExecutionState.RUNNING)
                        run.task = group.create_task(self._execute(run, execute))
                working = group.create_task(self._work.wait())
                await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
                working.cancel()

    async def _execute(self, run: _Run, execute: Execute) -> None:
        try:
            output = await execute(run.request.payload, _steps())
            self._end(run, Succeed(output=orjson.loads(orjson.dumps(output))))
        except RunFailed as error:
            self._close(run, ExecutionState.FAILED, failure=error.failure)
        except asyncio.CancelledError:
            if run.reason is None:
                raise
            self._cancelled(run)
        except Exception as error:  # noqa: BLE001 - the interface's word on what a workflow may raise
            failure = WorkflowFailure(code="InternalError", message=f"unexpected {type(error).__name__}")
            self._close(run, ExecutionState.FAILED, failure=failure)

    def _reach(self) -> None:
        if self._away > 0:
            self._away -= 1
            raise ProviderUnavailable("mock: unavailable as scripted")

    def _start(self, request: WorkflowRequest) -> _Run:
        scripted = self._scripts.get(request.execution_id)
        outcome = scripted.popleft() if scripted else self.default
        info = ExecutionInfo(
            execution_id=request.execution_id,
            state=ExecutionState.PENDING if isinstance(outcome, Work) else ExecutionState.RUNNING,
            digest=request.digest,
            native_id=request.execution_id,
        )
        run = self._runs[request.execution_id] = _Run(request=request, outcome=outcome, info=info)
        match outcome:
            case Stay():
                run.info = replace(
                    info,
                    state=outcome.state,
                    failure=outcome.failure,
                    attempt=outcome.attempt,
                )
            case Work():
                self._work.set()
            case Succeed(after=0) | Fail(after=0):
                self._end(run, outcome)
            case Succeed() | Fail():
                run.timer = asyncio.get_running_loop().call_later(outcome.after, self._end, run, outcome)
        return run

    def _end(self, run: _Run, outcome: Succeed | Fail) -> None:
        if isinstance(outcome, Succeed):
            self._close(run, ExecutionState.SUCCEEDED, output=outcome.output, failure=None)
        else:
            self._close(run, outcome.state, failure=outcome.failure)

    def _cancelled(self, run: _Run) -> None:
        failure = WorkflowFailure(code="Cancelled", message=run.reason or "")
        self._close(run, ExecutionState.CANCELLED, failure=failure)

    def _close(self, run: _Run, state: ExecutionState, **changes: Any) -> None:
        """Unless it has ended: whoever comes later (a worker that was given up) is not heard."""
        if run.info.state.ended:
            return
        run.info = replace(run.info, state=state, **changes)
        self._still(run)
        for queue in self._listeners:
            queue.put_nowait(run.request.execution_id)

    def _still(self, run: _Run) -> None:
        if run.timer is not None:
            run.timer.cancel()
        if run.task is not None and run.task is not asyncio.current_task():
            run.task.cancel()


@dataclass(frozen=True, slots=True)
class _MockWorker(Worker):
    serve: Callable[[asyncio.Event], Awaitable[None]]

    async def run(self, stop: asyncio.Event) -> None:
        """See :class:`landlord.workflow.execution.Worker`."""
        await self.serve(stop)


def _steps() -> Step:
    done: dict[str, Any] = {}

    async def step(name: str, action: Callable[[], Awaitable[Any]], /) -> Any:
        if name not in done:
            done[name] = orjson.loads(orjson.dumps(await action()))
        return done[name]

    return step
