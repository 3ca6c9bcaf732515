"""What Landlord asks of a workflow engine.

An engine keeps executions by an id that the caller chooses. Everything Landlord promises rests on three properties
that each provider must have, and that the conformance suite checks: a trigger is idempotent by execution id, the
engine says truly whether it knows an id, and a run carries the digest of the bytes it was started with.
"""

from __future__ import annotations

import abc
import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from landlord import canonical
from landlord.workflow.execution import Execute, Worker

MAX_PAYLOAD = 262_144
"""Bytes of input. The smallest limit among the engines (Step Functions), so that every tenant can move."""

MAX_EXECUTION_ID = 80
"""Characters. The smallest limit among the engines (the name of a Step Functions execution)."""

LONGEST_MESSAGE = 4096
"""Characters of a failure's message."""


class ExecutionState(StrEnum):
    """The engine's word on a run, in terms every engine can be mapped to."""

    PENDING = "pending"
    """Accepted, not started yet."""
    RUNNING = "running"
    RETRYING = "retrying"
    """Backing off after an error that the engine will try again."""
    PAUSED = "paused"
    """The engine gave up by itself; somebody must act."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    @property
    def ended(self) -> bool:
        return self in _ENDED

    @property
    def degraded(self) -> bool:
        """Alive, but only because the engine keeps trying."""
        return self in (ExecutionState.RETRYING, ExecutionState.PAUSED)


_ENDED = frozenset(
    {ExecutionState.SUCCEEDED, ExecutionState.FAILED, ExecutionState.CANCELLED, ExecutionState.TIMED_OUT}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowFailure:
    """Why a run (or its last try) did not succeed. ``message`` is shown to users: no secrets, no tracebacks."""

    code: str
    message: str
    permanent: bool = False
    """Trying the same input again cannot help."""
    step: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """For programs: ``existing_generation`` with code ``NewerGeneration``, ``faults`` with ``InvalidConfig``."""

    def to_json(self) -> dict[str, Any]:
        """What every engine and store takes, whatever a provider said."""
        value = {
            "code": self.code,
            "message": self.message[:LONGEST_MESSAGE],
            "permanent": self.permanent,
            "step": self.step,
            "details": dict(self.details),
        }
        storable: dict[str, Any] = canonical.storable(value)
        return storable

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WorkflowFailure:
        """The opposite of :meth:`to_json`; what is absent takes its default."""
        return cls(
            code=value["code"],
            message=value["message"],
            permanent=value.get("permanent", False),
            step=value.get("step"),
            details=value.get("details") or {},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRequest:
    """One run to be started: its id and the canonical bytes it runs on (the whole tenant context)."""

    execution_id: str
    payload: bytes

    @property
    def digest(self) -> str:
        return canonical.digest(self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerResult:
    """``created`` is false when the id was there already; ``digest`` is then that run's: it tells whose the run is.

    A provider that cannot see the difference (Step Functions) says ``created=True`` only if it knows.
    """

    execution_id: str
    created: bool
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionInfo:
    """The engine's word on one run."""

    execution_id: str
    state: ExecutionState
    digest: str | None
    """Of the bytes the run was started with; null only where the engine has lost it."""
    attempt: int = 1
    """Tries the engine has made, from 1."""
    failure: WorkflowFailure | None = None
    """Of the run if it ended so, else of its last try."""
    output: Any = None
    native_id: str | None = None
    """The engine's own name of the run, for who looks for it there: Landlord makes no use of it."""


class RunFailed(Exception):
    """Raised inside a run: it ends as ``failed`` with this failure. Whatever else a run raises is ``InternalError``."""

    def __init__(self, failure: WorkflowFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class WorkflowError(Exception):
    """Whatever a provider raises is one of these; the message names engine and cause and holds no secret."""


class ProviderUnavailable(WorkflowError):
    """The engine cannot be reached, or answers that it cannot serve now. Says nothing about the run. Retryable."""


class TriggerTimeout(ProviderUnavailable):
    """No answer in time: the run may or may not exist. The same id with the same bytes must be sent again."""


class InvalidRequest(WorkflowError):
    """The engine will never take this request (id, size, content)."""


class ExecutionNotFound(WorkflowError):
    """The engine does not know the id: it never saw it, or has forgotten it."""


class WorkflowProvider(abc.ABC):
    """A workflow engine. Subclasses are found by the entry-point group ``landlord.workflow_providers``.

    A class is instantiated as ``cls(settings=Settings)``, which does no I/O and may raise ``ConfigurationError``.
    Every call but :meth:`wait` and :meth:`completions` ends by itself within the provider's own time-out.
    """

    name: ClassVar[str]

    async def start(self) -> None:
        """Open connections. Does not fail when the engine is away: that is what :meth:`ready` tells."""

    async def close(self) -> None:
        """Close what :meth:`start` opened; runs go on."""

    @abc.abstractmethod
    async def ready(self) -> None:
        """Raise :class:`ProviderUnavailable` unless a trigger would be taken now."""

    async def register(self) -> None:
        """Make the engine know the tenant workflow (tables, deployment, state machine). Idempotent."""

    def check(self, request: WorkflowRequest) -> None:
        """Raise :class:`InvalidRequest` for what the engine would refuse. Pure: no I/O."""
        if not 1 <= len(request.execution_id) <= MAX_EXECUTION_ID:
            raise InvalidRequest(f"execution id must have 1 to {MAX_EXECUTION_ID} characters")
        if not re.fullmatch(r"[A-Za-z0-9-]+", request.execution_id):
            raise InvalidRequest("execution id may hold only ASCII letters, digits and '-'")
        if len(request.payload) > MAX_PAYLOAD:
            raise InvalidRequest(f"payload has {len(request.payload)} bytes, more than {MAX_PAYLOAD}")

    @abc.abstractmethod
    async def trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        """Start the run unless its id is taken; then say whose it is. ``timeout`` in seconds.

        Raises :class:`InvalidRequest`, :class:`ProviderUnavailable`, :class:`TriggerTimeout`.
        """

    @abc.abstractmethod
    async def get_many(self, execution_ids: Sequence[str]) -> dict[str, ExecutionInfo]:
        """The runs the engine knows among these. Raises :class:`ProviderUnavailable`."""

    async def get(self, execution_id: str) -> ExecutionInfo:
        """Raises :class:`ExecutionNotFound`, :class:`ProviderUnavailable`."""
        found = await self.get_many([execution_id])
        if execution_id not in found:
            raise ExecutionNotFound(f"{self.name} does not know execution {execution_id}")
        return found[execution_id]

    async def wait(self, execution_id: str, *, timeout: float) -> ExecutionInfo:
        """The run once it has ended; ``TimeoutError`` after ``timeout`` seconds, in which the engine may be away.

        Raises :class:`ExecutionNotFound`.
        """
        async with asyncio.timeout(timeout):
            while True:
                with suppress(ProviderUnavailable):
                    info = await self.get(execution_id)
                    if info.state.ended:
                        return info
                await asyncio.sleep(0.05)

    @abc.abstractmethod
    async def cancel(self, execution_id: str, *, reason: str, force: bool = False) -> None:
        """Ask the run to end as ``cancelled``. Returns when the engine has taken the wish, not when the run has ended.

        ``force``: end it even though no worker answers. No-op for a run that has ended.
        Raises :class:`ExecutionNotFound`, :class:`ProviderUnavailable`.
        """

    @abc.abstractmethod
    def worker(self, execute: Execute) -> Worker:
        """What executes this engine's runs in the process that calls it; ``execute`` is the workflow itself."""

    def completions(self) -> AsyncIterator[str]:
        """Ids of runs that have just ended, while they can be pushed: a hint to look now, may lose and repeat.

        An engine that can tell cheaply adds runs that are degraded for some seconds, and once more when they go on.
        The empty string says that some may have been missed: look at everything under way.

        The default pushes nothing; polling is the backstop. Raises nothing: it reconnects by itself.
        """
        return _nothing()


async def _nothing() -> AsyncIterator[str]:
    nothing: tuple[str, ...] = ()
    for execution_id in nothing:
        yield execution_id
