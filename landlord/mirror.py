"""The record and its ``Tenant`` resource: which is whose, what differs, and how one is written into the other. Pure.

What is written into a cluster is written by the operator, from what this module says; only the first try to create a
resource is the API's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson

from landlord import canonical
from landlord.kubernetes import API_VERSION, GROUP, KIND, WRITER
from landlord.tenants.commands import ResourceIdentity
from landlord.tenants.model import Stalled, Status, Tenant

FINALIZER = f"{GROUP}/tenant"
STAMP = f"{GROUP}/mirror"
INCARNATION = f"{GROUP}/incarnation"

LATE = timedelta(minutes=1)
"""How long after a life its mirror may still be made; the API server's clock is not Postgres's, either."""
READ = 2 * canonical.DEEPEST
"""Levels of a spec that are read: the API server keeps thousands, and more than half of these are refused anyway."""

_STAMP = re.compile(r"v1:([0-9]{1,18}):([0-9]{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What the last write of ours says in the resource: who differs from it has been edited since."""

    resource_generation: int
    record_generation: int
    sha: str

    def __str__(self) -> str:
        return f"v1:{self.resource_generation}:{self.record_generation}:{self.sha}"

    @classmethod
    def parse(cls, text: str | None) -> Stamp | None:
        """Null for none, and for what is not ours to understand."""
        match = _STAMP.fullmatch(text or "")
        if match is None:
            return None
        return cls(resource_generation=int(match[1]), record_generation=int(match[2]), sha=match[3])


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A ``Tenant`` resource as it was read."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    created_at: datetime
    """By the API server's clock."""
    terminating: bool
    finalizers: tuple[str, ...]
    annotations: Mapping[str, str]
    writers: frozenset[str]
    """Who has written any of the spec."""
    stampers: frozenset[str]
    """Who has written the stamp."""
    spec: Mapping[str, Any]
    """Down to :data:`READ` levels."""
    status: Mapping[str, Any]

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Resource:
        metadata = body["metadata"]
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            resource_version=metadata["resourceVersion"],
            created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
            terminating=metadata.get("deletionTimestamp") is not None,
            finalizers=tuple(metadata.get("finalizers") or ()),
            annotations=metadata.get("annotations") or {},
            writers=_managers(metadata, "spec"),
            stampers=_managers(metadata, "metadata", "annotations", STAMP),
            spec=canonical.cut(body.get("spec") or {}, levels=READ),
            status=body.get("status") or {},
        )

    @property
    def identity(self) -> ResourceIdentity:
        return ResourceIdentity(namespace=self.namespace, uid=self.uid, generation=self.generation)

    @property
    def held(self) -> bool:
        """By our finalizer."""
        return FINALIZER in self.finalizers

    @property
    def incarnation(self) -> str | None:
        return self.annotations.get(INCARNATION)

    @property
    def stamp(self) -> Stamp | None:
        return Stamp.parse(self.annotations.get(STAMP))

    @property
    def recorded_generation(self) -> int:
        """The record's generation this resource has seen; 0 if none."""
        return self.stamp.record_generation if self.stamp else 0

    @property
    def described(self) -> bool:
        """The stamp is of this very spec: nobody has edited it since we wrote it."""
        stamp = self.stamp
        return stamp is not None and stamp.resource_generation == self.generation and stamp.sha == sha(self.spec)

    @property
    def signed(self) -> bool:
        """The stamp is here because we put it here, and did not come with what a user had exported."""
        return WRITER in self.stampers

    @property
    def untouched(self) -> bool:
        """A mirror that we made, of a spec that nobody else has ever written: what a user copied of it is none."""
        return self.described and self.writers == {WRITER}


def _managers(metadata: Mapping[str, Any], *path: str) -> frozenset[str]:
    """Who has written any of the field. An entry may lack everything, if somebody has written it."""
    found = set()
    for each in metadata.get("managedFields") or ():
        fields = each.get("fieldsV1")
        for name in path:
            fields = (fields or {}).get(f"f:{name}")
        if fields is not None:
            found.add(each.get("manager", ""))
    return frozenset(found)


class Owner(StrEnum):
    """Whose a resource is, seen from the row of its name."""

    OURS = "ours"
    """The row's resource, by uid or by incarnation."""
    FREE = "free"
    """A user's, which the row (or a new life) takes."""
    TAKEN = "taken"
    """The name lives in another namespace."""
    LEFTOVER = "leftover"
    """A mirror of an earlier life of the tenant, or one that was made too late: goes."""
    STRANGER = "stranger"
    """Terminating and not the row's: only loses our finalizer."""
    ORPHAN = "orphan"
    """Terminating, held by us, and there is no row at all: the record was lost."""


def spec(tenant: Tenant) -> dict[str, Any]:
    """The resource's spec for the record: all four fields, numbers as the API server keeps them."""
    value = {
        "computeProvider": tenant.compute_provider,
        "computeConfig": tenant.compute_config,
        "paused": tenant.paused,
        "deletionPolicy": tenant.deletion_policy.value,
    }
    normal: dict[str, Any] = orjson.loads(canonical.dumps(value))
    return normal


def sha(value: Mapping[str, Any]) -> str:
    """Of a spec as it is written, in canonical form."""
    return canonical.digest(canonical.dumps(value))


def owner(tenant: Tenant | None, resource: Resource) -> Owner:
    """Decided first, before spec or finalizer is looked at."""
    if resource.terminating:
        if tenant is None:
            return Owner.ORPHAN if resource.held else Owner.STRANGER
        return Owner.OURS if _bound(tenant, resource) else Owner.STRANGER
    if tenant is None:
        return Owner.FREE
    if not tenant.living:
        return _after(tenant, resource)
    if _bound(tenant, resource):
        return Owner.OURS
    if not _same_place(tenant, resource):
        return Owner.LEFTOVER if resource.untouched and resource.incarnation == tenant.incarnation else Owner.TAKEN
    return Owner.LEFTOVER if _of_earlier_life(tenant, resource) else Owner.FREE


def _after(tenant: Tenant, resource: Resource) -> Owner:
    """The row is deleted. What a user applies begins a new life, and may well carry the annotations of the old one."""
    if resource.uid == tenant.resource_uid:
        return Owner.OURS
    assert tenant.deleted_at is not None
    late = (
        resource.untouched
        and resource.recorded_generation <= tenant.generation
        and resource.created_at <= tenant.deleted_at + LATE
    )
    return Owner.LEFTOVER if late else Owner.FREE


def _bound(tenant: Tenant, resource: Resource) -> bool:
    if not _same_place(tenant, resource):
        return False
    return resource.uid == tenant.resource_uid or resource.incarnation == tenant.incarnation


def _same_place(tenant: Tenant, resource: Resource) -> bool:
    return tenant.namespace in (None, resource.namespace)


def _of_earlier_life(tenant: Tenant, resource: Resource) -> bool:
    """Generations go on over lives: one that is ahead of the row is not earlier, the row was restored."""
    return (
        resource.incarnation not in (None, tenant.incarnation)
        and resource.signed
        and resource.recorded_generation <= tenant.generation
        and resource.created_at <= tenant.created_at + LATE
    )


def is_edit(tenant: Tenant, resource: Resource) -> bool:
    """Whether a user has written what the record has not seen.

    A stamp travels with what is exported: where the row is not bound to the resource, only one of ours is believed.
    """
    if resource.uid != tenant.resource_uid:
        return not (resource.described and resource.signed)
    return resource.generation != tenant.resource_generation and not resource.described


def must_bind(tenant: Tenant, resource: Resource) -> bool:
    """The row does not name this resource yet, or one of the two has been restored.

    After etcd was, generations that the row has seen come again, for edits that it has not.
    """
    return (
        (tenant.namespace, tenant.resource_uid) != (resource.namespace, resource.uid)
        or tenant.detached
        or resource.generation < (tenant.resource_generation or 0)
        or resource.recorded_generation > tenant.generation
    )


def undisputed(tenant: Tenant, resource: Resource) -> bool:
    """Whether nothing but the first binding and the status can be left to write.

    For these, an older version of the resource is good enough: it is a compare-and-set that writes. Everything else,
    an edit above all, has to be seen in the resource as it is now.
    """
    return (
        owner(tenant, resource) is Owner.OURS
        and tenant.living
        and not tenant.detached
        and not resource.terminating
        and tenant.resource_uid in (None, resource.uid)
        and resource.generation >= (tenant.resource_generation or 0)
        and not is_edit(tenant, resource)
        and mirror_patch(tenant, resource) is None
    )


def same_spec(tenant: Tenant, resource: Resource) -> bool:
    """Whether the resource asks for what the record says; an absent provider means the record's."""
    written = {"computeProvider": tenant.compute_provider, **resource.spec}
    return canonical.equal(written, spec(tenant))


def mirror_patch(tenant: Tenant, resource: Resource) -> list[dict[str, Any]] | None:
    """The one JSON patch that makes the resource the record's mirror; null if it is."""
    wanted = spec(tenant)
    changes = not canonical.equal(wanted, resource.spec)
    stamp = Stamp(
        resource_generation=resource.generation + 1 if changes else resource.generation,
        record_generation=tenant.generation,
        sha=sha(wanted),
    )
    annotations = {STAMP: str(stamp), INCARNATION: tenant.incarnation}
    unstamped = {name: value for name, value in annotations.items() if resource.annotations.get(name) != value}
    if not changes and not unstamped and resource.held:
        return None
    operations = _tested(resource)
    if changes:
        operations.append({"op": "add", "path": "/spec", "value": wanted})
    if unstamped and not resource.annotations:
        operations.append({"op": "add", "path": "/metadata/annotations", "value": unstamped})
    else:
        operations.extend(
            {"op": "add", "path": f"/metadata/annotations/{name.replace('/', '~1')}", "value": value}
            for name, value in unstamped.items()
        )
    if not resource.held:
        operations.append(_finalizers(*resource.finalizers, FINALIZER))
    return operations


def hold_patch(resource: Resource) -> list[dict[str, Any]]:
    """Adds our finalizer."""
    return [*_tested(resource), _finalizers(*resource.finalizers, FINALIZER)]


def release_patch(resource: Resource) -> list[dict[str, Any]]:
    """Takes our finalizer away, and nobody else's."""
    return [*_tested(resource), _finalizers(*(each for each in resource.finalizers if each != FINALIZER))]


def _tested(resource: Resource) -> list[dict[str, Any]]:
    return [
        {"op": "test", "path": "/metadata/uid", "value": resource.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": resource.resource_version},
    ]


def _finalizers(*names: str) -> dict[str, Any]:
    return {"op": "add", "path": "/metadata/finalizers", "value": list(names)}


def wanted(tenant: Tenant | None) -> bool:
    """Whether the record is to have a resource."""
    return (
        tenant is not None
        and not tenant.detached
        and tenant.status not in (Status.DELETING, Status.DELETED)
        and tenant.stalled is not Stalled.RECORD_BEHIND
    )


def new_resource(tenant: Tenant, *, namespace: str) -> dict[str, Any]:
    """The mirror as it is created."""
    value = spec(tenant)
    stamp = Stamp(resource_generation=1, record_generation=tenant.generation, sha=sha(value))
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": tenant.id,
            "namespace": namespace,
            "finalizers": [FINALIZER],
            "annotations": {STAMP: str(stamp), INCARNATION: tenant.incarnation},
        },
        "spec": value,
    }
