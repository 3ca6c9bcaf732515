"""What a client can ask for, whichever door it came through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from landlord.tenants.model import DeletionPolicy, Door, IdempotencyKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceIdentity:
    """The ``Tenant`` resource a change was read from: what makes sure that one edit is taken once."""

    namespace: str
    uid: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """POST."""

    compute_provider: str | None = None
    compute_config: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    paused: bool = False
    deletion_policy: DeletionPolicy = DeletionPolicy.DELETE


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """PUT: the configuration is replaced, the rest only where given."""

    compute_provider: str | None = None
    compute_config: dict[str, Any]
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    paused: bool | None = None
    deletion_policy: DeletionPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """PATCH: a JSON merge patch (RFC 7396) of the writable fields."""

    merge: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """DELETE, or the deletion of the bound resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """``POST …/retry``, optionally with another configuration."""

    compute_config: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A user's edit of the ``Tenant`` resource: creates, changes or retries, as the row asks for."""

    identity: ResourceIdentity
    compute_provider: str | None = None
    compute_config: dict[str, Any]
    paused: bool = False
    deletion_policy: DeletionPolicy = DeletionPolicy.DELETE
    recorded_generation: int = 0
    """The record's generation that the resource has seen (from its mirror annotation), 0 if none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """The bound resource is terminating: run the delete, or let the resource go and keep the tenant (``Retain``)."""

    identity: ResourceIdentity
    retain: bool
    compute_provider: str | None = None
    """With the configuration: used where there is no row at all (a database was restored)."""
    compute_config: dict[str, Any] = field(default_factory=dict)
    recorded_generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """The row takes this resource as its own (a mirror just made, say), with nothing else to change."""

    identity: ResourceIdentity
    recorded_generation: int = 0


Command = Create | Replace | Patch | Delete | Retry | Edit | Remove | Bind


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A command with who sent it and under which conditions."""

    tenant_id: str
    command: Command
    who: str
    door: Door
    key: IdempotencyKey | None = None
    if_match: int | None = None
    """The ``version`` the client has seen."""
