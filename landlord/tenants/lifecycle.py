"""The one state machine of a tenant. API, reconciler and tests read this table; nobody has another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from landlord.tenants.model import Action, Status


class Event(StrEnum):
    """What happens to a tenant: what clients ask for, and how its runs end."""

    CREATE = "create"
    CREATE_PAUSED = "create paused"
    START = "start"
    """What was created paused may run."""
    CHANGE_SPEC = "change spec"
    DELETE = "delete"
    RETRY_PLAN = "retry plan"
    RETRY_PROVISION = "retry provision"
    RETRY_UPDATE = "retry update"
    RETRY_DELETE = "retry delete"
    SUCCEED = "succeed"
    """The run of the status' action succeeded for the row's generation."""
    SUCCEED_OLDER = "succeed for an older generation"
    FAIL = "fail"
    """The run failed and is tried again."""
    GIVE_UP = "give up"
    """Attempts are spent, or the error is permanent."""


@dataclass(frozen=True, slots=True)
class Transition:
    """Where an event leads."""

    to: Status
    action: Action | None = None
    """What has to run now."""


class InvalidTransition(Exception):
    """The state machine refuses: the message says which transition, and what clients may ask for instead."""

    def __init__(self, *, status: Status | None, event: Event) -> None:
        allowed = sorted({REQUESTS[entry] for source, entry in TABLE if source is status and entry in REQUESTS})
        super().__init__(
            f"cannot {REQUESTS.get(event, event)} a tenant that is {status or 'absent'};"
            f" allowed: {', '.join(allowed) or 'nothing'}"
        )


ACTIONS: Mapping[Status, Action] = {
    Status.PLANNING: Action.PLAN,
    Status.PROVISIONING: Action.PROVISION,
    Status.UPDATING: Action.UPDATE,
    Status.DELETING: Action.DELETE,
}
"""The statuses in which something has to run, and what."""

RETRY: Mapping[Action, Event] = {
    Action.PLAN: Event.RETRY_PLAN,
    Action.PROVISION: Event.RETRY_PROVISION,
    Action.UPDATE: Event.RETRY_UPDATE,
    Action.DELETE: Event.RETRY_DELETE,
}

REQUESTS: Mapping[Event, str] = {
    Event.CREATE: "create",
    Event.CREATE_PAUSED: "create",
    Event.START: "unpause",
    Event.CHANGE_SPEC: "change",
    Event.DELETE: "delete",
    **dict.fromkeys(RETRY.values(), "retry"),
}
"""What clients ask for, in their words; the other events are how runs end."""

_PLAN = Transition(Status.PLANNING, Action.PLAN)
_PROVISION = Transition(Status.PROVISIONING, Action.PROVISION)
_UPDATE = Transition(Status.UPDATING, Action.UPDATE)
_DELETE = Transition(Status.DELETING, Action.DELETE)
_FAILED = Transition(Status.FAILED)
_READY = Transition(Status.READY)

TABLE: Mapping[tuple[Status | None, Event], Transition] = {
    (None, Event.CREATE): _PLAN,
    (None, Event.CREATE_PAUSED): Transition(Status.REQUESTED),
    (Status.DELETED, Event.CREATE): _PLAN,
    (Status.DELETED, Event.CREATE_PAUSED): Transition(Status.REQUESTED),
    (Status.REQUESTED, Event.START): _PLAN,
    (Status.REQUESTED, Event.CHANGE_SPEC): Transition(Status.REQUESTED),
    (Status.REQUESTED, Event.DELETE): _DELETE,
    (Status.PLANNING, Event.CHANGE_SPEC): _PLAN,
    (Status.PLANNING, Event.DELETE): _DELETE,
    (Status.PLANNING, Event.RETRY_PLAN): _PLAN,
    (Status.PLANNING, Event.SUCCEED): _PROVISION,
    (Status.PLANNING, Event.SUCCEED_OLDER): _PLAN,
    (Status.PLANNING, Event.FAIL): _PLAN,
    (Status.PLANNING, Event.GIVE_UP): _FAILED,
    (Status.PROVISIONING, Event.CHANGE_SPEC): _PROVISION,
    (Status.PROVISIONING, Event.DELETE): _DELETE,
    (Status.PROVISIONING, Event.RETRY_PROVISION): _PROVISION,
    (Status.PROVISIONING, Event.SUCCEED): _READY,
    (Status.PROVISIONING, Event.SUCCEED_OLDER): _UPDATE,
    (Status.PROVISIONING, Event.FAIL): _PROVISION,
    (Status.PROVISIONING, Event.GIVE_UP): _FAILED,
    (Status.READY, Event.CHANGE_SPEC): _UPDATE,
    (Status.READY, Event.DELETE): _DELETE,
    (Status.UPDATING, Event.CHANGE_SPEC): _UPDATE,
    (Status.UPDATING, Event.DELETE): _DELETE,
    (Status.UPDATING, Event.RETRY_UPDATE): _UPDATE,
    (Status.UPDATING, Event.SUCCEED): _READY,
    (Status.UPDATING, Event.SUCCEED_OLDER): _UPDATE,
    (Status.UPDATING, Event.FAIL): _UPDATE,
    (Status.UPDATING, Event.GIVE_UP): _FAILED,
    (Status.FAILED, Event.DELETE): _DELETE,
    (Status.FAILED, Event.RETRY_PLAN): _PLAN,
    (Status.FAILED, Event.RETRY_PROVISION): _PROVISION,
    (Status.FAILED, Event.RETRY_UPDATE): _UPDATE,
    (Status.DELETING, Event.DELETE): _DELETE,
    (Status.DELETING, Event.RETRY_DELETE): _DELETE,
    (Status.DELETING, Event.SUCCEED): Transition(Status.DELETED),
    (Status.DELETING, Event.SUCCEED_OLDER): Transition(Status.DELETED),
    (Status.DELETING, Event.FAIL): _DELETE,
    (Status.DELETING, Event.GIVE_UP): _DELETE,  # a delete is tried for ever
}


def transition(status: Status | None, event: Event) -> Transition:
    """Where the event leads. Raises :class:`InvalidTransition`."""
    try:
        return TABLE[status, event]
    except KeyError:
        raise InvalidTransition(status=status, event=event) from None
