"""The rules of design.md §4 against a hostile world: every interleaving Hypothesis can think of.

The world is a database with compare-and-set, an engine that is idempotent by id, triggers that are lost, late or
answered by nobody, runs that the engine will not take, and processes that stop anywhere. Whatever happens: never two
runs of a tenant at once, never two successes for one (generation, action), ``ready`` only after a run of that
generation succeeded, nothing applied under a generation that the world has from somebody else, and once the faults end
every tenant converges.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from landlord.tenants.accept import accept
from landlord.tenants.acceptance import Acceptance, Validation
from landlord.tenants.commands import Bind, Create, Delete, Patch, Replace, Request, ResourceIdentity, Retry
from landlord.tenants.decide import Decision, decide, refused
from landlord.tenants.errors import Refusal
from landlord.tenants.lifecycle import ACTIONS
from landlord.tenants.model import Action, Change, Door, Execution, Snapshot, Stalled, Status, Tenant
from landlord.tenants.runs import Policy
from landlord.tenants.service import after
from landlord.workflow.provider import ExecutionInfo, ExecutionState, WorkflowFailure

POLICY = Policy(installation="test", provider="local", complete=lambda _, config: dict(config), attempts=3)
VALIDATION = Validation(default_provider="mock", faults=lambda _, __: [], check=lambda _: None)
ID = "acme"


@dataclass
class Run:
    """A run as the engine has it."""

    digest: str
    payload: dict[str, Any]
    state: ExecutionState = ExecutionState.RUNNING
    failure: WorkflowFailure | None = None
    cancelling: bool = False


@dataclass
class Engine:
    runs: dict[str, Run] = field(default_factory=dict)
    succeeded: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    invalid: set[str] = field(default_factory=set)
    """What it would not take, it never takes."""

    def trigger(self, execution: Execution) -> None:
        assert execution.payload is not None
        assert execution.digest is not None
        if execution.execution_id in self.invalid:
            return
        self.runs.setdefault(
            execution.execution_id, Run(digest=execution.digest, payload=orjson.loads(execution.payload))
        )

    def cancel(self, execution: Execution) -> None:
        if execution.execution_id not in self.runs:  # dispatch.cancel: sent first, then cancelled
            self.trigger(execution)
        if (run := self.runs.get(execution.execution_id)) is not None:
            run.cancelling = True

    def word(self, execution: Execution | None) -> ExecutionInfo | None:
        run = self.runs.get(execution.execution_id) if execution else None
        if execution is None or run is None:
            return None
        return ExecutionInfo(
            execution_id=execution.execution_id,
            state=run.state,
            digest=run.digest,
            failure=run.failure,
            output={"generation": run.payload["generation"]},
        )

    @property
    def active(self) -> list[str]:
        return [execution_id for execution_id, run in self.runs.items() if not run.state.ended]

    def end(self, execution_id: str, state: ExecutionState, failure: WorkflowFailure | None = None) -> None:
        run = self.runs[execution_id]
        run.state, run.failure = state, failure
        if state is ExecutionState.SUCCEEDED:
            self.succeeded[run.payload["incarnation"], run.payload["generation"], run.payload["action"]] += 1


class Lifecycle(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.tenant: Tenant | None = None
        self.executions: dict[str, Execution] = {}
        self.engine = Engine()
        self.late: list[Execution] = []  # triggers on their way
        self.pending: list[tuple[Snapshot, Decision]] = []  # reconcilers that have decided and not yet committed
        self.repeats: Counter[tuple[int, str]] = Counter()
        self.foreign: set[int] = set()  # generations the world has from a record that was lost

    # The database

    def load(self) -> Snapshot:
        self.now += timedelta(milliseconds=1)
        head = self.tenant.head if self.tenant else None
        chosen = tuple(e for e in self.executions.values() if e.open or e.execution_id == head)
        return Snapshot(id=ID, now=self.now, tenant=self.tenant, executions=chosen)

    def commit(self, change: Change) -> bool:
        if change.expected != (self.tenant.revision if self.tenant else None):
            return False
        assert change.tenant.revision == (change.expected or 0) + 1
        self.tenant = change.tenant
        for execution in change.updated:
            known = self.executions[execution.execution_id]
            assert known.payload is None or known.payload == execution.payload, "frozen bytes were changed"
            self.executions[execution.execution_id] = execution
        if change.added is not None:
            assert change.added.execution_id not in self.executions, "an execution id was used twice"
            self.executions[change.added.execution_id] = change.added
        return True

    # Clients, through the accept path

    def submit(self, command: Any, *, fate: str) -> None:
        snapshot = self.load()
        request = Request(tenant_id=ID, command=command, who="t", door=Door.API)
        try:
            acceptance: Acceptance = accept(snapshot, request, policy=POLICY, validation=VALIDATION)
        except Refusal:
            return
        if acceptance.change is None:
            return
        assert self.commit(acceptance.change)
        snapshot = after(snapshot, acceptance.change)
        if fate == "crash":
            return
        touched = [*acceptance.change.updated, *((acceptance.change.added,) if acceptance.change.added else ())]
        for execution in touched:
            if not execution.running:
                continue
            if execution.cancel_requested_at is not None:
                if fate == "ok":
                    self.engine.cancel(execution)
            elif fate == "late":
                self.late.append(execution)
            else:
                self.engine.trigger(execution)
        if fate in ("late", "reply lost") and snapshot.tenant is not None:
            assert self.tenant is not None
            failed = replace(
                self.tenant, workflow_execution_id=None, revision=self.tenant.revision + 1, unanswered=True
            )
            self.commit(Change(tenant=failed, expected=self.tenant.revision, audit=None))

    fates = st.sampled_from(["ok", "ok", "ok", "crash", "late", "reply lost"])

    @rule(fate=fates, paused=st.booleans())
    def post(self, fate: str, paused: bool) -> None:
        self.submit(Create(compute_config={"v": 0}, paused=paused), fate=fate)

    @rule(fate=fates, v=st.integers(0, 3))
    def put(self, fate: str, v: int) -> None:
        self.submit(Replace(compute_config={"v": v}), fate=fate)

    @rule(fate=fates, paused=st.booleans())
    def pause(self, fate: str, paused: bool) -> None:
        self.submit(Patch(merge={"paused": paused}), fate=fate)

    @rule(fate=fates)
    def delete(self, fate: str) -> None:
        self.submit(Delete(), fate=fate)

    @rule(fate=fates, v=st.none() | st.integers(0, 3))
    def retry(self, fate: str, v: int | None) -> None:
        self.submit(Retry(compute_config=None if v is None else {"v": v}), fate=fate)

    @precondition(lambda self: self.tenant is not None and self.tenant.living)
    @rule(ahead=st.integers(1, 3))
    def restored(self, ahead: int) -> None:
        """The resource has seen a newer generation than the record: an older database was restored."""
        assert self.tenant is not None
        seen = self.tenant.generation + ahead
        self.foreign.add(seen)
        identity = ResourceIdentity(namespace="default", uid="uid", generation=seen)
        self.submit(Bind(identity=identity, recorded_generation=seen), fate="ok")

    # Reconcilers: they may stop between any two steps, and several may have decided on the same row

    @rule()
    def reconciler_decides(self) -> None:
        snapshot = self.load()
        self.pending.append((snapshot, decide(snapshot, word=self.engine.word(snapshot.sent), policy=POLICY)))
        del self.pending[:-3]

    @precondition(lambda self: self.pending)
    @rule(which=st.integers(0, 2), crash=st.booleans())
    def reconciler_acts(self, which: int, crash: bool) -> None:
        _, decision = self.pending.pop(which % len(self.pending))
        self.carry_out(decision, crash=crash)

    @rule(rounds=st.integers(1, 4))
    def all_goes_well(self, rounds: int) -> None:
        """So that what lies deep in a life is reached, too."""
        for _ in range(rounds):
            for execution_id in self.engine.active:
                if not self.engine.runs[execution_id].cancelling:
                    self.engine.end(execution_id, ExecutionState.SUCCEEDED)
            snapshot = self.load()
            decision = decide(snapshot, word=self.engine.word(snapshot.sent), policy=POLICY)
            self.carry_out(decision, crash=False)

    @rule(v=st.integers(0, 3), rounds=st.integers(1, 3), deleting=st.booleans())
    def overtaken(self, v: int, rounds: int, deleting: bool) -> None:
        """A trigger is on its way while a newer request comes, whose own call to the engine is lost."""
        self.submit(Replace(compute_config={"v": v}), fate="late")
        self.submit(Delete() if deleting else Replace(compute_config={"v": v + 1}), fate="crash")
        for _ in range(rounds):
            self.reconcile()
        while self.late:
            self.late_trigger_arrives()

    @precondition(lambda self: self.engine.active)
    @rule()
    def overdue_but_succeeds(self) -> None:
        self.now += timedelta(seconds=4000)
        self.reconcile()
        for execution_id in self.engine.active:
            self.engine.end(execution_id, ExecutionState.SUCCEEDED)
        self.reconcile()

    @rule()
    def reconcile(self) -> None:
        snapshot = self.load()
        self.carry_out(decide(snapshot, word=self.engine.word(snapshot.sent), policy=POLICY), crash=False)

    def carry_out(self, decision: Decision, *, crash: bool) -> bool:
        if decision.change is not None and not self.commit(decision.change):
            return True
        if crash:
            return True
        if decision.trigger is not None:
            self.engine.trigger(decision.trigger)
        if decision.cancel is not None:
            self.engine.cancel(decision.cancel)
        return decision.change is not None or decision.trigger is not None or decision.cancel is not None

    # The world

    @precondition(lambda self: self.late)
    @rule()
    def late_trigger_arrives(self) -> None:
        self.engine.trigger(self.late.pop(0))

    @precondition(
        lambda self: any(e.running and e.execution_id not in self.engine.runs for e in self.executions.values())
    )
    @rule()
    def what_was_sent_is_refused(self) -> None:
        snapshot = self.load()
        assert snapshot.sent is not None
        self.engine.invalid.add(snapshot.sent.execution_id)
        self.commit(refused(snapshot, snapshot.sent, message="not taken", policy=POLICY))

    @precondition(lambda self: self.engine.active)
    @rule(which=st.integers(0, 5), how=st.sampled_from(["ok", "ok", "ok", "fail", "permanent", "cancelled", "paused"]))
    def run_ends(self, which: int, how: str) -> None:
        execution_id = self.engine.active[which % len(self.engine.active)]
        if how == "paused":
            self.engine.runs[execution_id].state = ExecutionState.PAUSED
        elif how == "ok":
            self.engine.end(execution_id, ExecutionState.SUCCEEDED)
        elif how == "cancelled":
            self.engine.end(execution_id, ExecutionState.CANCELLED)
        else:
            failure = WorkflowFailure(code="X", message="x", permanent=how == "permanent")
            self.engine.end(execution_id, ExecutionState.FAILED, failure)

    @precondition(lambda self: any(run.cancelling and not run.state.ended for run in self.engine.runs.values()))
    @rule()
    def cancel_is_obeyed(self) -> None:
        self.obey()

    def obey(self) -> None:
        for execution_id in self.engine.active:
            if self.engine.runs[execution_id].cancelling:
                self.engine.end(execution_id, ExecutionState.CANCELLED)

    @rule(seconds=st.sampled_from([1, 10, 400, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    # What must hold, always

    @invariant()
    def one_run_at_a_time(self) -> None:
        assert len(self.engine.active) <= 1, self.engine.active

    @invariant()
    def at_most_one_sent_and_one_waiting(self) -> None:
        assert sum(e.running for e in self.executions.values()) <= 1
        assert sum(e.waiting for e in self.executions.values()) <= 1

    @invariant()
    def a_cancelled_run_has_a_successor(self) -> None:
        for execution in self.executions.values():
            if execution.running and execution.cancel_requested_at is not None:
                assert any(e.waiting for e in self.executions.values()), "a cancelled run has nothing behind it"

    @invariant()
    def ready_is_never_untrue(self) -> None:
        if self.tenant is None or self.tenant.status is not Status.READY:
            return
        seen = self.engine.succeeded
        assert any(
            seen[self.tenant.incarnation, self.tenant.observed_generation or -1, action]
            for action in ("provision", "update")
        )
        told = self.tenant.paused or self.tenant.stalled is Stalled.RECORD_BEHIND
        assert told or self.tenant.observed_generation == self.tenant.generation
        assert self.tenant.workflow_execution_id is None

    @invariant()
    def deleted_is_never_untrue(self) -> None:
        if self.tenant is not None and self.tenant.status is Status.DELETED:
            assert any(
                incarnation == self.tenant.incarnation and action == "delete"
                for incarnation, _, action in self.engine.succeeded
            )

    @invariant()
    def what_must_run_is_known(self) -> None:
        if self.tenant is not None and self.tenant.status in ACTIONS and not self.tenant.paused:
            assert self.tenant.head is not None

    @invariant()
    def somebody_looks_at_what_is_under_way(self) -> None:
        if any(execution.running for execution in self.executions.values()):
            assert self.tenant is not None
            assert self.tenant.next_check_at is not None

    @invariant()
    def nothing_is_applied_under_a_generation_of_others(self) -> None:
        for run in self.engine.runs.values():
            assert run.payload["action"] == Action.DELETE or run.payload["generation"] not in self.foreign

    @invariant()
    def one_success_a_generation_and_action(self) -> None:
        for (incarnation, generation, action), times in self.engine.succeeded.items():
            assert times == 1, f"{action} of generation {generation} of {incarnation} succeeded {times} times"

    def teardown(self) -> None:
        """The faults end: triggers arrive, cancels are obeyed, runs succeed, reconcilers work, nothing is paused.

        Then what has failed is retried, and what is behind is told what is wanted: nothing stays as it is for ever.
        """
        if self.tenant is None:
            return
        self.pending.clear()
        if self.tenant.paused:
            self.submit(Patch(merge={"paused": False}), fate="crash")
        assert not self.tenant.paused or not self.tenant.living or self.tenant.status is Status.DELETING
        self.converge()
        if self.tenant.stalled is Stalled.RECORD_BEHIND or self.tenant.status is Status.FAILED:
            self.submit(Retry(compute_config={"v": 9}), fate="crash")
            self.converge()
        assert self.tenant.status in (Status.READY, Status.DELETED), self.tenant
        assert all(not e.open for e in self.executions.values())
        assert not self.engine.active
        self.ready_is_never_untrue()

    def converge(self) -> None:
        for _ in range(200):
            while self.late:
                self.engine.trigger(self.late.pop())
                self.one_run_at_a_time()
            self.obey()
            for execution_id in self.engine.active:
                self.engine.end(execution_id, ExecutionState.SUCCEEDED)
            self.now += timedelta(seconds=301)
            snapshot = self.load()
            again = self.carry_out(decide(snapshot, word=self.engine.word(snapshot.sent), policy=POLICY), crash=False)
            self.one_run_at_a_time()
            if not again:
                return


Lifecycle.TestCase.settings = settings(
    max_examples=400, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLifecycle = Lifecycle.TestCase
