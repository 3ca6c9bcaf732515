"""What every request needs: the row it is about, the checks, and the change that is made of a new row. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from landlord.tenants import runs
from landlord.tenants.commands import Request, ResourceIdentity
from landlord.tenants.decide import next_check
from landlord.tenants.errors import Fault, Gone, Invalid, NotFound, PreconditionFailed
from landlord.tenants.lifecycle import ACTIONS
from landlord.tenants.model import Action, Audit, Change, Execution, Snapshot, Tenant
from landlord.tenants.runs import Policy
from landlord.workflow.provider import InvalidRequest, WorkflowRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The pure checks of this installation's providers."""

    default_provider: str
    faults: Callable[[str, Mapping[str, Any]], Sequence[Fault]]
    """Everything wrong with a configuration for that compute provider (which may be unknown)."""
    check: Callable[[WorkflowRequest], None]
    """The workflow provider's own check; raises ``InvalidRequest``."""


class Acceptance(Struct, frozen=True, kw_only=True):
    """What is to be committed, and what the answer rests on."""

    change: Change | None
    """Null where there is nothing to store."""
    started: bool = False
    """A run was started or is under way for this request (202 rather than 200)."""
    repeat: bool = False
    """Nothing new is asked for: the head is triggered again."""


class Acceptor(Struct, frozen=True, kw_only=True):
    """One request against one snapshot: the checks and the values that the commands of both doors are made of.

    Changes nothing: every method gives a new row, or an :class:`Acceptance` that is yet to be committed.
    """

    snapshot: Snapshot
    request: Request
    policy: Policy
    validation: Validation

    def living(self) -> Tenant:
        """The tenant, where there is one that is not deleted. Raises :class:`NotFound`, :class:`Gone`."""
        tenant = self.snapshot.tenant
        if tenant is None:
            raise NotFound(f"tenant {self.request.tenant_id} does not exist")
        if not tenant.living:
            raise Gone(f"tenant {self.request.tenant_id} is deleted")
        return tenant

    def check_version(self, tenant: Tenant) -> None:
        """Raises :class:`PreconditionFailed` unless the request is meant for the tenant's version."""
        expected = self.request.if_match
        if expected is not None and tenant.version not in expected:
            raise PreconditionFailed(f"If-Match does not name the tenant's version, {tenant.version}")

    def check_config(self, provider: str, config: Mapping[str, Any]) -> None:
        """Raises :class:`Invalid` with everything that is wrong."""
        faults = list(self.validation.faults(provider, config))
        if faults:
            raise Invalid("the spec is not valid", faults=faults)

    def repeats(self, tenant: Tenant) -> bool:
        """The head's trigger failed and its run is not known to have ended."""
        head = self.snapshot.head
        return tenant.workflow_execution_id is None and head is not None and head.open

    def run(self, tenant: Tenant, *, send: bool) -> tuple[Tenant, Execution]:
        """The tenant with the next run of its status' action in charge, frozen if it may be sent at once (``send``).

        Raises :class:`Invalid` for what the engine would refuse, also if that is not sent yet.
        """
        action = ACTIONS[tenant.status]
        tenant, run = runs.new_run(
            tenant=tenant,
            action=action,
            source=self.request.door,
            now=self.snapshot.now,
            policy=self.policy,
            send=send,
        )
        self.check_request(run if send else runs.freeze(run, tenant=tenant, now=self.snapshot.now, policy=self.policy))
        return tenant, run

    def check_request(self, run: Execution) -> None:
        """The engine's own limits, before anything is stored. A delete is never refused for its size.

        Raises :class:`Invalid`.
        """
        if run.action is not Action.DELETE:
            try:
                self.validation.check(runs.request(run))
            except InvalidRequest as error:
                raise Invalid(f"the workflow engine would refuse the request: {error}") from None

    def to_commit(
        self,
        tenant: Tenant,
        *,
        event: str,
        started: bool,
        added: Execution | None = None,
        updated: tuple[Execution, ...] = (),
        accepted: bool = True,
    ) -> Acceptance:
        """The new row with what goes with it: its executions, a line of the trail (``event``), the idempotency key.

        ``started``: a run is under way for the request. ``accepted``: the client has changed something (its version
        is raised), and not only been answered.
        """
        before = self.snapshot.tenant
        executions = (*updated, *((added,) if added else ()))
        tenant = replace(
            tenant,
            version=tenant.version + 1 if accepted else tenant.version,
            revision=(before.revision if before else 0) + 1,
            updated_at=self.snapshot.now,
            next_check_at=self._next_check(tenant, executions),
        )
        audit = Audit(
            change_id=str(uuid.uuid4()),
            tenant_id=tenant.id,
            incarnation=tenant.incarnation,
            at=self.snapshot.now,
            who=self.request.who,
            door=self.request.door,
            event=str(event),
            from_status=before.status if before else None,
            to_status=tenant.status,
            why=f"{type(self.request.command).__name__} from {self.request.door}",
            generation=tenant.generation,
            execution_id=tenant.workflow_execution_id,
        )
        key = self.request.key
        if key is not None and started:
            key = replace(key, execution_id=tenant.head)
        return Acceptance(
            change=Change(
                tenant=tenant,
                expected=before.revision if before else None,
                added=added,
                updated=updated,
                audit=audit,
                key=key,
            ),
            started=started,
        )

    def joined(self, tenant: Tenant, *, repeat: bool) -> Acceptance:
        """The row is what the request asks for. Of a request with a key that is remembered: repeated when the row has
        changed, it would else be taken for a new one."""
        if self.request.key is None:
            return Acceptance(change=None, started=True, repeat=repeat)
        return replace(self.to_commit(tenant, event="repeated", started=True, accepted=False), repeat=repeat)

    def _next_check(self, tenant: Tenant, touched: tuple[Execution, ...]) -> datetime | None:
        """When the reconciler has to look; null where nothing is open.

        What is open and not touched is looked at when it would have been: changes must not put that off.
        """
        if touched:
            return next_check(touched, now=self.snapshot.now, policy=self.policy)
        anew = next_check(self.snapshot.executions, now=self.snapshot.now, policy=self.policy)
        return None if anew is None else tenant.next_check_at or anew

    def observe(self, tenant: Tenant) -> Acceptance:
        """Which resource is the row's: no change of the client's, so neither version nor audit trail."""
        acceptance = self.to_commit(tenant, event="bound", started=False, accepted=False)
        assert acceptance.change is not None
        return Acceptance(change=replace(acceptance.change, audit=None), started=acceptance.started)


def bound_to(tenant: Tenant, identity: ResourceIdentity | None) -> Tenant:
    """The row naming this resource as its own; as it was for null (a request that came from no resource)."""
    if identity is None:
        return tenant
    return replace(
        tenant,
        namespace=identity.namespace,
        resource_uid=identity.uid,
        resource_generation=identity.generation,
        detached=False,
    )
