"""The ``local`` engine's table, as typed calls. Writes of many runs at a time share statements."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
import psycopg

from landlord.database.coalescer import Coalescer, Overloaded
from landlord.database.engine import Database, DatabaseUnavailable
from landlord.database.listen import RECONNECTED, listen
from landlord.database.statement import Statement
from landlord.workflow.provider import (
    ExecutionInfo,
    ExecutionState,
    ProviderUnavailable,
    TriggerResult,
    WorkflowFailure,
    WorkflowRequest,
)
from landlord.workflow.providers.local import statements

PURGE_BATCH = 1000
"""Rows one purging statement removes at most, so that it never holds many locks for long."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A claim on a run: who writes for it shows this."""

    execution_id: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A run that a worker has just been given."""

    hold: Hold
    attempt: int
    payload: bytes
    done: dict[str, Any]
    """Outputs of the steps that earlier attempts finished."""
    cancel_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A step that is done."""

    hold: Hold
    name: str
    output: str
    """JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended."""

    hold: Hold
    state: ExecutionState
    output: str | None = None
    """JSON."""
    failure: WorkflowFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a write for a run learnt: whether the caller still holds it, and whether it is to be cancelled."""

    held: bool
    cancel_reason: str | None = None


class Store:
    """One installation's rows. Every call raises :class:`ProviderUnavailable` when the database does not serve."""

    def __init__(self, database: Database, *, installation: str, lease: float) -> None:
        self._database = database
        self._installation = installation
        self._lease = lease
        self._inserts = Coalescer(self._insert, key=lambda item: item.execution_id, isolate=_item_at_fault, most=64)
        self._checkpoints = Coalescer(self._checkpoint, key=lambda item: item.hold.execution_id, isolate=_item_at_fault)
        self._endings = Coalescer(self._finish, key=lambda item: item.hold.execution_id, isolate=_item_at_fault)

    async def close(self) -> None:
        """Close the database, once statements under way have ended."""
        await self._database.close()

    # What callers of the engine do.

    async def insert(self, request: WorkflowRequest) -> TriggerResult:
        """Start the run unless its id is taken. Coalesced."""
        return await _served(self._inserts(request))

    async def read(self, execution_ids: Sequence[str]) -> dict[str, ExecutionInfo]:
        """The runs that exist among these."""
        rows = await _served(self._fetch(statements.READ, ids=list(execution_ids)))
        return {row.execution_id: _info(row) for row in rows}

    async def cancel(self, execution_id: str, *, reason: str, force: bool) -> bool:
        """Wish the run to end, or end it where nobody can hold it; whether the id is known."""
        reason = reason.replace("\x00", "")
        rows = await _served(
            self._fetch(
                statements.CANCEL,
                id=execution_id,
                reason=reason,
                force=force,
                failure=_json(cancelled(reason)),
            )
        )
        return bool(rows[0].known)

    async def endings(self) -> AsyncGenerator[str, None]:
        """Ids of runs that have just ended, as they are notified; an empty one when some may have been missed."""
        async with aclosing(self._heard(statements.ENDED)) as notifications:
            async for execution_ids in notifications:
                for execution_id in execution_ids.split(" "):
                    yield execution_id

    # What workers do.

    async def claim(self, *, most: int, worker: str, held: Collection[str] = ()) -> list[Claimed]:
        """At most so many runs that nobody holds, oldest first; none of ``held``, whatever became of its lease."""
        rows = await _served(
            self._fetch(statements.CLAIM, most=most, worker=worker, held=list(held), lease=self._lease)
        )
        return [
            Claimed(
                hold=Hold(execution_id=row.execution_id, fence=row.fence),
                attempt=row.attempts,
                payload=bytes(row.payload),
                done={name: orjson.loads(output) for name, output in (row.steps or {}).items()},
                cancel_reason=row.cancel_reason,
            )
            for row in rows
        ]

    async def renew(self, holds: Sequence[Hold]) -> dict[Hold, Standing]:
        """Renew the leases; says of each whether it is still held."""
        return await _served(self._standings(statements.RENEW, holds, lease=self._lease))

    async def checkpoint(self, checkpoint: Checkpoint) -> Standing:
        """Record a step and renew the lease. Coalesced."""
        return await _served(self._checkpoints(checkpoint))

    async def finish(self, ending: Ending) -> bool:
        """Record the end of a run, unless it is no longer held: says which. Coalesced."""
        return await _served(self._endings(ending))

    async def hand_back(self, holds: Sequence[Hold]) -> None:
        """Let other workers take these at once; the attempt does not count."""
        await _served(self._fetch(statements.HAND_BACK, **_columns(holds)))

    async def purge(self, *, retention: float) -> int:
        """Forget runs that ended longer than ``retention`` seconds ago; how many went (at most a batch)."""
        return await _served(self._purge(retention))

    async def orders(self) -> AsyncGenerator[tuple[str, str], None]:
        """What workers are told: (``work``, ''), (``cancel``, execution id), ('', '') after each (re)connect."""
        async with aclosing(self._heard(statements.WORKERS)) as notifications:
            async for words in notifications:
                order, _, execution_id = words.partition(" ")
                yield order, execution_id

    async def _heard(self, channel: str) -> AsyncGenerator[str, None]:
        """What this installation is told; an empty text for whatever may have been missed."""
        async with aclosing(listen(self._database.conninfo, channel=channel)) as notifications:
            async for notification in notifications:
                installation, _, words = notification.partition(" ")
                if installation == self._installation or notification == RECONNECTED:
                    yield words

    async def _fetch(self, statement: Statement, **parameters: Any) -> list[Any]:
        return await self._database.execute(statement, installation=self._installation, **parameters)

    async def _insert(self, requests: Sequence[WorkflowRequest]) -> list[TriggerResult]:
        document = [
            {"execution_id": request.execution_id, "payload": request.payload.hex(), "digest": request.digest}
            for request in requests
        ]
        rows = await self._fetch(statements.INSERT, requests=orjson.dumps(document).decode())
        created = {row.execution_id for row in rows if row.created}
        digests = {row.execution_id: row.digest for row in rows if row.digest}
        if unseen := [row.execution_id for row in rows if not row.created and not row.digest]:
            late = await self._fetch(statements.DIGESTS, ids=unseen)
            digests.update({row.execution_id: row.digest for row in late})
        return [
            TriggerResult(
                execution_id=request.execution_id,
                created=request.execution_id in created,
                digest=request.digest if request.execution_id in created else digests.get(request.execution_id),
            )
            for request in requests
        ]

    async def _checkpoint(self, checkpoints: Sequence[Checkpoint]) -> list[Standing]:
        holds = [checkpoint.hold for checkpoint in checkpoints]
        standings = await self._standings(
            statements.CHECKPOINT,
            holds,
            name=[checkpoint.name for checkpoint in checkpoints],
            output=[checkpoint.output for checkpoint in checkpoints],
            lease=self._lease,
        )
        return [standings[hold] for hold in holds]

    async def _standings(self, statement: Statement, holds: Sequence[Hold], **parameters: Any) -> dict[Hold, Standing]:
        rows = await self._fetch(statement, **_columns(holds), **parameters)
        reasons = {row.execution_id: row.cancel_reason for row in rows}
        return {
            hold: Standing(held=hold.execution_id in reasons, cancel_reason=reasons.get(hold.execution_id))
            for hold in holds
        }

    async def _finish(self, endings: Sequence[Ending]) -> list[bool]:
        rows = await self._fetch(
            statements.FINISH,
            **_columns([ending.hold for ending in endings]),
            state=[ending.state.value for ending in endings],
            output=[ending.output for ending in endings],
            failure=[_json(ending.failure) if ending.failure else None for ending in endings],
        )
        ended = {row.execution_id for row in rows}
        return [ending.hold.execution_id in ended for ending in endings]

    async def _purge(self, retention: float) -> int:
        return len(await self._fetch(statements.PURGE, retention=retention, most=PURGE_BATCH))


def cancelled(reason: str) -> WorkflowFailure:
    """The failure that a cancelled run shows."""
    return WorkflowFailure(code="Cancelled", message=reason)


def _json(failure: WorkflowFailure) -> str:
    try:
        return orjson.dumps(failure.to_json()).decode()
    except TypeError:  # a provider put in what is no JSON
        return _json(WorkflowFailure(code="InternalError", message="the failure is no JSON"))


async def _served(call: Awaitable[Result]) -> Result:
    try:
        return await call
    except (DatabaseUnavailable, Overloaded) as error:
        raise ProviderUnavailable(f"local: {error}") from error
    except psycopg.ProgrammingError as error:
        raise ProviderUnavailable("local: the engine's tables are missing or old: run `landlord migrate`") from error
    except psycopg.Error as error:
        raise ProviderUnavailable(f"local: Postgres refused a statement ({type(error).__name__})") from error


def _item_at_fault(error: Exception) -> bool:
    """Errors of the connection arrive as DatabaseUnavailable; what is left may be one item's doing."""
    return isinstance(error, psycopg.Error)


def _columns(holds: Sequence[Hold]) -> dict[str, Any]:
    return {"execution_id": [hold.execution_id for hold in holds], "fence": [hold.fence for hold in holds]}


def _info(row: Any) -> ExecutionInfo:
    return ExecutionInfo(
        execution_id=row.execution_id,
        state=ExecutionState(row.state),
        digest=row.digest,
        attempt=max(row.attempts, 1),
        failure=WorkflowFailure.from_json(orjson.loads(row.failure)) if row.failure else None,
        output=orjson.loads(row.output) if row.output else None,
        native_id=row.execution_id,
    )
