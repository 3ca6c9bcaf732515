"""What a client can ask for, whichever door it came through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from landlord.tenants.model import DeletionPolicy, Door, IdempotencyKey


class ResourceIdentity(Struct, frozen=True, kw_only=True):
    """The ``Tenant`` resource a change was read from: what makes sure that one edit is taken once."""

    namespace: str
    uid: str
    generation: int


class Create(Struct, frozen=True, kw_only=True):
    """POST."""

    compute_provider: str | None = None
    compute_config: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    paused: bool = False
    deletion_policy: DeletionPolicy = DeletionPolicy.DELETE


class Replace(Struct, frozen=True, kw_only=True):
    """PUT: the configuration is replaced, the rest only where given."""

    compute_provider: str | None = None
    compute_config: dict[str, Any]
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    paused: bool | None = None
    deletion_policy: DeletionPolicy | None = None


class Patch(Struct, frozen=True, kw_only=True):
    """PATCH: a JSON merge patch (RFC 7396) of the writable fields."""

    merge: Mapping[str, Any]


class Delete(Struct, frozen=True, kw_only=True):
    """DELETE, or the deletion of the bound resource."""


class Retry(Struct, frozen=True, kw_only=True):
    """``POST …/retry``, optionally with another configuration."""

    compute_config: dict[str, Any] | None = None


class Edit(Struct, frozen=True, kw_only=True):
    """A user's edit of the ``Tenant`` resource: creates, changes or retries, as the row asks for."""

    identity: ResourceIdentity
    compute_provider: str | None = None
    compute_config: dict[str, Any]
    paused: bool = False
    deletion_policy: DeletionPolicy = DeletionPolicy.DELETE
    recorded_generation: int = 0
    """The record's generation that the resource has seen (from its mirror annotation), 0 if none."""


class Remove(Struct, frozen=True, kw_only=True):
    """The bound resource is terminating: run the delete, or let the resource go and keep the tenant (``Retain``)."""

    identity: ResourceIdentity
    retain: bool
    compute_provider: str | None = None
    """With the configuration: used where there is no row at all (a database was restored)."""
    compute_config: dict[str, Any] = field(default_factory=dict)
    recorded_generation: int = 0


class Bind(Struct, frozen=True, kw_only=True):
    """The row takes this resource as its own (a mirror just made, say), with nothing else to change."""

    identity: ResourceIdentity
    recorded_generation: int = 0


Command = Create | Replace | Patch | Delete | Retry | Edit | Remove | Bind


class Request(Struct, frozen=True, kw_only=True):
    """A command with who sent it and under which conditions."""

    tenant_id: str
    command: Command
    who: str
    door: Door
    key: IdempotencyKey | None = None
    if_match: frozenset[int] | None = None
    """Versions of the tenant that the change may be made on; null for any."""
