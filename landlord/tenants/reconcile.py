"""The reconciler: brings each tenant a step closer to its spec, whoever else does the same at the same time.

It is woken by ends of runs (pushed by the engine, or told by workers) and by ``next_check_at`` (the backstop). It reads
row and engine afresh, decides, commits, and only then asks the engine for anything. Any number of reconcilers may run:
commits are compare-and-set, triggers idempotent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import psycopg
import structlog

from landlord.database.engine import DatabaseUnavailable
from landlord.queue import KeyedQueue
from landlord.tenants import dispatch
from landlord.tenants.decide import Decision, decide, refused
from landlord.tenants.gate import EngineGate
from landlord.tenants.hints import Announced, Hints
from landlord.tenants.metrics import OLDEST, QUEUE, RECONCILED, TENANTS, reconciling
from landlord.tenants.model import Execution, Snapshot, Status
from landlord.tenants.repository import Repository
from landlord.tenants.runs import Policy
from landlord.workflow.client import WorkflowClient
from landlord.workflow.provider import (
    ExecutionInfo,
    ExecutionNotFound,
    InvalidRequest,
    ProviderUnavailable,
    TriggerTimeout,
)

WORKERS = 64
"""Tenants looked at at once; their statements are coalesced, so this is not a number of connections."""
CLAIM = 500
IDLE = 0.5
"""Seconds between looks for due tenants while there are none."""
STEPS = 16
"""Steps of one tenant in one look, after which the others have their turn."""

_log = structlog.get_logger(__name__)


class Reconciler:
    """One reconciler; :meth:`run` it in a task of its own."""

    def __init__(
        self,
        *,
        repository: Repository,
        hints: Hints,
        client: WorkflowClient,
        policy: Policy,
        tombstone_retention: float,
        idempotency_retention: float,
    ) -> None:
        self._repository = repository
        self._hints = hints
        self._announced = Announced()
        self._client = client
        self._policy = policy
        self._tombstones = tombstone_retention
        self._keys = idempotency_retention
        self._queue: KeyedQueue[str] = KeyedQueue(backoff=policy.backoff, backoff_limit=policy.backoff_limit)
        self._gate = EngineGate(client=client, returned=self._engine_returned, backoff=policy.backoff)
        self._database_up = True
        reconciling()

    async def run(self) -> None:
        """Reconcile for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._gate.run(), name="engine gate")
            group.create_task(self._claim_due(), name="claim due tenants")
            group.create_task(self._follow_completions(), name="follow completions")
            group.create_task(self._follow_hints(), name="follow hints")
            group.create_task(self._keep_house(), name="keep house")
            for number in range(WORKERS):
                group.create_task(self._queue.work(self._look), name=f"reconcile {number}")

    async def reconcile(self, tenant_id: str) -> None:
        """Step until nothing is left to do now.

        Raises ``DatabaseUnavailable`` and ``ProviderUnavailable``; whatever was committed before goes on next time.
        """
        for _ in range(STEPS):
            snapshot = await self._repository.load(tenant_id)
            word = await self._word(snapshot)
            pause = self._announced.pause(snapshot, word)
            if not await self._carry_out(snapshot, decide(snapshot, word=word, policy=self._policy)):
                if pause is not None:
                    self._queue.put_later(tenant_id, seconds=pause)
                return
        self._queue.put(tenant_id)

    async def _word(self, snapshot: Snapshot) -> ExecutionInfo | None:
        """What the engine says of the run under way; null if it does not know it, or there is none to ask about."""
        if snapshot.sent is None or snapshot.sent.provider != self._client.name:
            return None
        try:
            return await self._client.get(snapshot.sent.execution_id)
        except ExecutionNotFound:
            return None

    async def _carry_out(self, snapshot: Snapshot, decision: Decision) -> bool:
        """Commit, then ask the engine; whether to look again at once."""
        tenant = snapshot.tenant
        if decision.change is not None:
            if not await self._repository.commit(decision.change):
                return True
            tenant = decision.change.tenant
        if tenant is None:
            return False
        try:
            if decision.cancel is not None:
                ours = await dispatch.cancel(self._client, decision.cancel, force=decision.force)
            else:
                ours = decision.trigger is None or await dispatch.trigger(self._client, decision.trigger)
        except InvalidRequest as error:
            asked = decision.cancel or decision.trigger
            assert asked is not None
            await self._refuse(asked, message=str(error))
            return True
        if not ours:
            return True
        if decision.change is not None:
            return False
        if decision.trigger is not None and tenant.workflow_execution_id is None:
            return True  # now it can be seen, and its id be shown again
        if decision.settled and tenant.next_check_at is not None:
            await self._repository.look_at(tenant, seconds=None)
        elif decision.check_in is not None:
            await self._repository.look_at(tenant, seconds=decision.check_in)
        return False

    async def _refuse(self, execution: Execution, *, message: str) -> None:
        """The engine will never take it. Whoever else was told so may have gone on already, to another run."""
        snapshot = await self._repository.load(execution.tenant_id)
        if snapshot.sent is not None and snapshot.sent.execution_id == execution.execution_id:
            await self._repository.commit(refused(snapshot, snapshot.sent, message=message, policy=self._policy))

    async def _look(self, tenant_id: str) -> bool:
        """One key of the queue: errors end here, each with what it means."""
        await self._gate.passed()
        try:
            await self.reconcile(tenant_id)
        except TriggerTimeout as error:
            _log.warning("engine too slow for this run", tenant=tenant_id, error=str(error))
            RECONCILED.labels(result="timeout").inc()
            return False
        except ProviderUnavailable as error:
            RECONCILED.labels(result="engine").inc()
            if not await self._gate.doubt():
                _log.warning("engine refuses this run only", tenant=tenant_id, error=str(error))
            return False
        except DatabaseUnavailable as error:
            self._database(up=False, why=str(error))
            RECONCILED.labels(result="database").inc()
            return False
        except Exception:  # noqa: BLE001 - a poisoned tenant must not stop the others
            _log.exception("cannot reconcile", tenant=tenant_id)
            RECONCILED.labels(result="error").inc()
            return False
        self._database(up=True)
        RECONCILED.labels(result="ok").inc()
        return True

    def _database(self, *, up: bool, why: str = "") -> None:
        if up != self._database_up:
            self._database_up = up
            _log.log(20 if up else 30, "database available again" if up else "database unavailable", why=why)

    async def _claim_due(self) -> None:
        """Take what is due; it is left to us for as long as one trigger may take."""
        while True:
            await self._gate.passed()
            claimed: list[str] = []
            if self._queue.depth < CLAIM:
                with _surviving("claim"):
                    try:
                        claimed = await self._repository.claim(limit=CLAIM, lease=self._policy.trigger_timeout)
                        self._database(up=True)
                    except DatabaseUnavailable as error:
                        self._database(up=False, why=str(error))
            for tenant_id in claimed:
                self._queue.put(tenant_id)
            QUEUE.labels(queue="reconcile").set(self._queue.depth)
            await asyncio.sleep(IDLE if len(claimed) < CLAIM else 0)

    async def _follow_completions(self) -> None:
        """Ends of runs as the engine tells them, looked up in batches."""
        ended: set[str] = set()
        arrived = asyncio.Event()

        async def collect() -> None:
            async for execution_id in self._client.completions():
                ended.add(execution_id)
                arrived.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(collect())
            while True:
                await arrived.wait()
                arrived.clear()
                batch = [execution_id for execution_id in ended if execution_id]
                missed = "" in ended
                ended.clear()
                with _surviving("completions"):  # else next_check_at brings them
                    if missed:
                        await self._repository.wake()
                    for tenant_id in await self._repository.owners(batch) if batch else ():
                        self._queue.put(tenant_id)

    async def _follow_hints(self) -> None:
        async for hint in self._hints.heard():
            self._announced.add(hint)
            self._queue.put(hint.tenant_id)

    async def _engine_returned(self) -> None:
        with _surviving("wake"):  # else their leases end by themselves
            await self._repository.wake()

    async def _keep_house(self) -> None:
        """Old tombstones and keys go; the numbers people watch are taken."""
        rounds = 0
        while True:
            with _surviving("housekeeping"):
                await self._measure()
                if rounds % 360 == 0:
                    await self._repository.purge(tombstones=self._tombstones, keys=self._keys)
            rounds += 1
            await asyncio.sleep(10)

    async def _measure(self) -> None:
        found = {line.status: line for line in await self._repository.in_flight()}
        for status in Status:
            TENANTS.labels(status=status.value).set(found[status].tenants if status in found else 0)
        OLDEST.set(max((line.oldest for line in found.values()), default=0))


@contextlib.contextmanager
def _surviving(what: str) -> Iterator[None]:
    """A statement that Postgres does not take, or does not take now, must not end the reconciler."""
    try:
        yield
    except DatabaseUnavailable:
        pass
    except psycopg.Error as error:
        _log.error("Postgres refused a statement", of=what, error=type(error).__name__)
