"""Accepting a request, whichever door it came through: decide, commit, then trigger.

The order of writes is that of design.md §4: nothing outside is asked before the request is committed, and whatever
happens to this process afterwards, the reconciler finds in the row what has to be done.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from weakref import WeakValueDictionary

import structlog
from msgspec import Struct
from msgspec.structs import replace
from psycopg import IntegrityError

from landlord.tenants import dispatch
from landlord.tenants.accept import accept
from landlord.tenants.acceptance import Acceptance, Validation
from landlord.tenants.commands import Create, Request
from landlord.tenants.decide import decide, refused
from landlord.tenants.errors import Conflict, Gone, KeyReused, Refusal, TriggerFailed, TriggerRefused
from landlord.tenants.metrics import TRIGGER_FAILURES, accepted
from landlord.tenants.model import Change, Execution, Snapshot
from landlord.tenants.repository import Repository, StoredKey
from landlord.tenants.runs import Policy
from landlord.workflow.client import WorkflowClient
from landlord.workflow.provider import (
    ExecutionInfo,
    ExecutionState,
    InvalidRequest,
    ProviderUnavailable,
    TriggerTimeout,
    WorkflowFailure,
)

CONTENTION = 30.0
"""Seconds after which a request that others always overtake is given up, unless it is just being written."""

_log = structlog.get_logger(__name__)


class Answer(Struct, frozen=True, kw_only=True):
    """The record an answer shows. ``started``: a run is under way for the request (202 rather than 200)."""

    snapshot: Snapshot
    started: bool


class TenantService:
    """The one accept path. Raises :class:`~landlord.tenants.errors.Refusal` with nothing stored,
    :class:`~landlord.tenants.errors.TriggerFailed` with the request recorded, ``DatabaseUnavailable``."""

    def __init__(
        self, *, repository: Repository, client: WorkflowClient, policy: Policy, validation: Validation
    ) -> None:
        self.repository = repository
        self._client = client
        self._policy = policy
        self._validation = validation
        # Requests for one tenant take turns here, so that they need not find out by refused commits.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def submit(self, request: Request) -> Answer:
        """Accept a request and trigger what it needs."""
        snapshot, acceptance = await self._accept(request)
        if acceptance.change is None and not acceptance.repeat:
            return Answer(snapshot=snapshot, started=acceptance.started)
        return await self._start(snapshot, request=request, acceptance=acceptance)

    def foresee(self, snapshot: Snapshot, request: Request) -> Acceptance:
        """What :meth:`submit` would decide on that snapshot. Pure; raises :class:`~landlord.tenants.errors.Refusal`."""
        return accept(snapshot, request, policy=self._policy, validation=self._validation)

    async def _accept(self, request: Request) -> tuple[Snapshot, Acceptance]:
        """Decide and commit; again whenever somebody was faster."""
        turn = self._turns.setdefault(request.tenant_id, asyncio.Lock())
        late = asyncio.get_running_loop().time() + CONTENTION
        while True:
            taken = False
            try:
                try:
                    async with asyncio.timeout_at(late):
                        taken = await turn.acquire()
                        snapshot, acceptance = await self._decide(request)
                except TimeoutError:
                    raise Conflict(f"tenant {request.tenant_id} is being changed by too many at once") from None
                # From here on the request may have been stored: no time-out but the database's own may end this.
                if acceptance.change is None:
                    return snapshot, acceptance
                try:
                    applied = await self.repository.commit(acceptance.change)
                except IntegrityError:
                    if (stored := await self._used(request)) is None:
                        raise
                    return await self._join(stored, request)
            finally:
                if taken:
                    turn.release()
            if applied:
                accepted(request.door, type(request.command)).inc()
                return after(snapshot, acceptance.change), acceptance

    async def _decide(self, request: Request) -> tuple[Snapshot, Acceptance]:
        """On the row as it is now; a request whose key was used before joins the one that used it."""
        if (stored := await self._used(request)) is not None:
            return await self._join(stored, request)
        snapshot = await self.repository.load(request.tenant_id)
        try:
            return snapshot, accept(snapshot, request, policy=self._policy, validation=self._validation)
        except Refusal:
            # Another process may have taken the same request under its key a moment ago.
            if (stored := await self._used(request)) is not None:
                return await self._join(stored, request)
            raise

    async def _used(self, request: Request) -> StoredKey | None:
        return await self.repository.key(request.key) if request.key else None

    async def _join(self, stored: StoredKey, request: Request) -> tuple[Snapshot, Acceptance]:
        """A second request with the key goes on where the first one is, and is answered as that one was."""
        assert request.key is not None
        if stored.body_digest != request.key.body_digest:
            raise KeyReused("the idempotency key was used with another body")
        snapshot = await self.repository.load(request.tenant_id)
        if snapshot.tenant is None:  # the key outlived the tombstone
            raise Gone(f"tenant {request.tenant_id} is deleted")
        head = snapshot.head
        ours = head is not None and head.open and head.execution_id == stored.execution_id
        return snapshot, Acceptance(change=None, started=stored.execution_id is not None, repeat=ours)

    async def _start(self, snapshot: Snapshot, *, request: Request, acceptance: Acceptance) -> Answer:
        """Step 3: ask the engine; step 4: record that it could not be asked."""
        change = None if acceptance.repeat else acceptance.change
        try:
            while (following := await self._ask(snapshot, change)) is not None:
                if not await self.repository.commit(following):
                    return await self._moved_on(snapshot)
                snapshot, change = after(snapshot, following), following
        except ProviderUnavailable as error:
            return await self._failed(snapshot, request=request, error=error)
        except InvalidRequest as error:
            return await self._refused(snapshot, request=request, error=error)
        if acceptance.repeat:
            return await self._answered(snapshot, request=request)
        return Answer(snapshot=snapshot, started=acceptance.started)

    async def _ask(self, snapshot: Snapshot, change: Change | None) -> Change | None:
        """Trigger or cancel what the change (or, for a repeat, the row) asks for; the change to follow, if any."""
        for execution in _concerned(snapshot, change):
            if execution.cancel_requested_at is None:
                ours = await dispatch.trigger(self._client, execution)
            else:
                try:
                    ours = await dispatch.cancel(self._client, execution)
                except InvalidRequest as error:  # it never was there, so there is nothing to wait for
                    return refused(snapshot, execution, message=str(error), policy=self._policy)
            if not ours:
                foreign = ExecutionInfo(
                    execution_id=execution.execution_id, state=ExecutionState.RUNNING, digest="another"
                )
                return decide(snapshot, word=foreign, policy=self._policy).change
        return None

    async def _failed(self, snapshot: Snapshot, *, request: Request, error: ProviderUnavailable) -> Answer:
        """The record stays; its id is withheld until the run has been seen."""
        TRIGGER_FAILURES.labels(door=request.door.value).inc()
        tenant, head = snapshot.tenant, snapshot.head
        assert tenant is not None
        failure = WorkflowFailure(code="TriggerFailed", message=str(error))
        change = Change(
            tenant=replace(
                tenant,
                workflow_execution_id=None,
                status_message=f"Failed to trigger workflow: {error}",
                unanswered=tenant.unanswered or isinstance(request.command, Create),
                revision=tenant.revision + 1,
                updated_at=snapshot.now,
                next_check_at=snapshot.now + timedelta(seconds=self._policy.backoff),
            ),
            expected=tenant.revision,
            updated=(replace(head, error=failure.to_json()),) if head is not None and head.open else (),
            audit=None,
        )
        _log.warning("trigger failed", tenant=tenant.id, execution=tenant.head, error=str(error))
        if not await self.repository.commit(change):
            return await self._moved_on(snapshot)
        raise TriggerFailed(detail=str(error), timeout=isinstance(error, TriggerTimeout), tenant=change.tenant)

    async def _refused(self, snapshot: Snapshot, *, request: Request, error: InvalidRequest) -> Answer:
        """The engine will never take it: no use to wait."""
        head = snapshot.head
        assert head is not None
        change = refused(snapshot, head, message=str(error), policy=self._policy)
        if isinstance(request.command, Create):
            change = replace(change, tenant=replace(change.tenant, unanswered=True))
        if not await self.repository.commit(change):
            return await self._moved_on(snapshot)
        raise TriggerRefused(f"the workflow engine refused the request: {error}")

    async def _answered(self, snapshot: Snapshot, *, request: Request) -> Answer:
        """A repeat got through: the id can be shown again."""
        tenant = snapshot.tenant
        assert tenant is not None
        unanswered = tenant.unanswered and not isinstance(request.command, Create)
        shown = replace(tenant, workflow_execution_id=tenant.head, unanswered=unanswered)
        if shown == tenant:
            return Answer(snapshot=snapshot, started=True)
        change = Change(
            tenant=replace(shown, status_message="", revision=tenant.revision + 1, updated_at=snapshot.now),
            expected=tenant.revision,
            audit=None,
        )
        if not await self.repository.commit(change):
            return await self._moved_on(snapshot)
        return Answer(snapshot=after(snapshot, change), started=True)

    async def _moved_on(self, snapshot: Snapshot) -> Answer:
        """Somebody went on from what this request had committed: the answer shows where it is now."""
        return Answer(snapshot=await self.repository.load(snapshot.id), started=True)


def _concerned(snapshot: Snapshot, change: Change | None) -> list[Execution]:
    if change is None:
        head, sent = snapshot.head, snapshot.sent
        if head is not None and head.running:
            return [head]
        return [sent] if sent is not None else []
    touched = [*change.updated, *((change.added,) if change.added else ())]
    return [execution for execution in touched if execution.running]


def after(snapshot: Snapshot, change: Change) -> Snapshot:
    """What :meth:`Repository.load` would say right after the change was applied."""
    touched = {execution.execution_id: execution for execution in change.updated}
    executions = [touched.pop(execution.execution_id, execution) for execution in snapshot.executions]
    executions.extend(touched.values())
    if change.added is not None:
        executions.append(change.added)
    head = change.tenant.head
    return replace(
        snapshot,
        tenant=change.tenant,
        executions=tuple(e for e in executions if e.open or e.execution_id == head),
    )
