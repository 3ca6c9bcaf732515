"""Why a request is not taken. Nothing has been stored when one of these is raised, but for :class:`TriggerFailed`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from landlord.tenants.model import Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One field that is wrong: a JSON pointer into the request, and what is allowed."""

    pointer: str
    message: str


class Refusal(Exception):
    """A request that is not taken. ``str()`` says what was wrong and what is allowed."""


class Invalid(Refusal):
    """The request is malformed or names what does not exist (400)."""

    def __init__(self, message: str, *, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class NotFound(Refusal):
    """No such tenant (404)."""


class Exists(Refusal):
    """A living tenant has this id (409)."""


class Conflict(Refusal):
    """The tenant's state does not allow it (409)."""


class Gone(Refusal):
    """The tenant is deleted (410)."""


class PreconditionFailed(Refusal):
    """If-Match names another version (412)."""


class KeyReused(Refusal):
    """The idempotency key was used with another body (422)."""


class TriggerFailed(Exception):
    """The request was recorded but its workflow could not be triggered (500); the reconciler goes on with it."""

    def __init__(self, *, detail: str, timeout: bool, tenant: Tenant) -> None:
        super().__init__(detail)
        self.detail = detail
        self.timeout = timeout
        self.tenant = tenant


class TriggerRefused(Invalid):
    """The engine refused the request as invalid after it had been recorded: the tenant is failed (400)."""
