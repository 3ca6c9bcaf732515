"""The rows: a tenant, its executions, and the values that change them.

All are immutable: a decision makes a new row from an old one (``msgspec.structs.replace``), and :class:`Change` carries
it to the one statement that writes. They are structs of msgspec's because making one of thirty fields from another is
most of what a decision does, and takes a tenth of a dataclass's time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

from landlord.workflow.provider import ExecutionState, WorkflowFailure

TENANT_ID = re.compile(r"[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?")
"""A DNS label of at most 50 characters, so that every execution id fits 80."""


class Status(StrEnum):
    """Where a tenant is in its life; :mod:`landlord.tenants.lifecycle` has what leads from one to another."""

    REQUESTED = "requested"
    PLANNING = "planning"
    PROVISIONING = "provisioning"
    READY = "ready"
    UPDATING = "updating"
    DELETING = "deleting"
    DELETED = "deleted"
    FAILED = "failed"


class Action(StrEnum):
    """What a run does for a tenant."""

    PLAN = "plan"
    PROVISION = "provision"
    UPDATE = "update"
    DELETE = "delete"


class Door(StrEnum):
    """Through which a change came; for an execution, its trigger source."""

    API = "api"
    KUBERNETES = "kubernetes"
    CONTROLLER = "controller"


class DeletionPolicy(StrEnum):
    """What deleting the ``Tenant`` resource means for the tenant."""

    DELETE = "Delete"
    RETAIN = "Retain"


class Stalled(StrEnum):
    """Why a tenant makes no progress by itself; null while it does."""

    DEADLINE_EXCEEDED = "DeadlineExceeded"
    ENGINE_PAUSED = "EnginePaused"
    ENGINE_NOT_CONFIGURED = "EngineNotConfigured"
    """A run is under way on an engine that this installation was taken off."""
    DELETE_FAILING = "DeleteFailing"
    DELETE_REFUSED = "DeleteRefused"
    RECORD_BEHIND = "RecordBehind"
    """The world has seen a newer generation than the record: a database was restored."""


class Tenant(Struct, frozen=True, kw_only=True):
    """One row of ``tenants``. Times are Postgres's."""

    id: str
    incarnation: str
    """UUID of this life; a tenant made again after a delete has another."""
    status: Status
    status_message: str = ""
    stalled: Stalled | None = None
    compute_provider: str
    compute_config: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    paused: bool = False
    deletion_policy: DeletionPolicy = DeletionPolicy.DELETE
    generation: int
    """Counts changes of the spec, over all lives."""
    version: int
    """Counts accepted changes of clients, over all lives."""
    observed_generation: int | None = None
    observed_config: dict[str, Any] | None = None
    revision: int = 0
    """Counts commits; what every write is compared with."""
    workflow_execution_id: str | None = None
    """What clients see: the run in charge, null after a failed trigger and where nothing runs."""
    head: str | None = None
    """The execution in charge, or the last that was."""
    unanswered: bool = False
    """A POST was answered 500 after it had been recorded: the same POST again is that request."""
    attempts: int = 0
    """Failed runs of the current action for the current generation."""
    next_check_at: datetime | None = None
    counters: dict[str, int] = field(default_factory=dict)
    """Action to the highest n of its execution ids, over all lives."""
    namespace: str | None = None
    resource_uid: str | None = None
    resource_generation: int | None = None
    detached: bool = False
    """Its resource was deleted under ``Retain``: no mirror until one is applied again."""
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None

    @property
    def etag(self) -> str:
        """The whole tells whether the record has changed, its first half whether a client has changed it."""
        return f'"{self.version}-{self.revision}"'

    @property
    def living(self) -> bool:
        return self.status is not Status.DELETED


class Execution(Struct, frozen=True, kw_only=True):
    """One row of ``executions``: a run of an action, as Landlord knows it.

    *Waiting*: not sent. *Sent*: its bytes are frozen and the engine may know it. *Ended*: known to have ended.
    """

    execution_id: str
    tenant_id: str
    incarnation: str
    generation: int
    action: Action
    n: int
    provider: str
    source: Door
    attempt: int = 1
    not_before: datetime | None = None
    sent_at: datetime | None = None
    payload: bytes | None = None
    digest: str | None = None
    deadline: datetime | None = None
    cancel_requested_at: datetime | None = None
    cancel_reason: str | None = None
    seen: bool = False
    """The engine has known it once."""
    state: ExecutionState = ExecutionState.PENDING
    engine_attempt: int = 0
    error: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    created_at: datetime
    ended_at: datetime | None = None

    @property
    def open(self) -> bool:
        """Waiting or running."""
        return self.ended_at is None

    @property
    def waiting(self) -> bool:
        """Not sent: for an earlier run to end, for its back-off, or for the tenant to be unpaused."""
        return self.open and self.sent_at is None

    @property
    def running(self) -> bool:
        """Sent and not known to have ended."""
        return self.open and self.sent_at is not None

    @property
    def retries(self) -> int:
        """Tries before this one: Landlord's of the action for its generation, and the engine's own of this run."""
        return self.attempt - 1 + max(self.engine_attempt - 1, 0)

    @property
    def failure(self) -> WorkflowFailure | None:
        return WorkflowFailure.from_json(self.error) if self.error else None


class Remains(Struct, frozen=True, kw_only=True):
    """What outlives a purged tombstone, so that ids and generations are never used twice."""

    generation: int = 0
    version: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)


class Snapshot(Struct, frozen=True, kw_only=True):
    """A tenant with its open executions and its head, read in one statement, and the database's time of that."""

    id: str
    now: datetime
    tenant: Tenant | None = None
    executions: tuple[Execution, ...] = ()
    remains: Remains = field(default_factory=Remains)

    @property
    def sent(self) -> Execution | None:
        """The run that the engine may be carrying out: at most one."""
        return next((execution for execution in self.executions if execution.running), None)

    @property
    def waiting(self) -> Execution | None:
        """The run that is not sent yet: at most one."""
        return next((execution for execution in self.executions if execution.waiting), None)

    @property
    def head(self) -> Execution | None:
        """The run in charge, open, or the last that was."""
        head = self.tenant.head if self.tenant else None
        return next((execution for execution in self.executions if execution.execution_id == head), None)


class Audit(Struct, frozen=True, kw_only=True):
    """One line of the trail: who changed what, through which door, and why."""

    change_id: str
    tenant_id: str
    incarnation: str
    at: datetime
    who: str
    door: Door
    event: str
    from_status: Status | None
    to_status: Status
    why: str
    generation: int
    execution_id: str | None


class IdempotencyKey(Struct, frozen=True, kw_only=True):
    """A client's key for one mutation, scoped to caller, method and path."""

    caller: str
    method: str
    path: str
    key: str
    body_digest: str
    execution_id: str | None = None
    """The run that the request has started or waits for; null where it started none."""


class Change(Struct, frozen=True, kw_only=True):
    """Everything one decision writes, applied as a whole or not at all."""

    tenant: Tenant
    """The new row; its ``revision`` is the one to be written."""
    expected: int | None
    """The revision it was decided on; null where there was no row."""
    added: Execution | None = None
    updated: tuple[Execution, ...] = ()
    audit: Audit | None
    """Null for what is merely observed of a run and moves nothing."""
    key: IdempotencyKey | None = None
