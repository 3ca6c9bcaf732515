"""The two sides of a tenant, its row and its ``Tenant`` resources, and all that is ever done to them.

Every write is a compare-and-set; one that comes too late is refused, and everything is read again.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from landlord.kubernetes import Forbidden, NotFound, TenantResources
from landlord.mirror import Resource
from landlord.tenants import errors
from landlord.tenants.commands import Command, Request
from landlord.tenants.errors import Invalid, TriggerFailed
from landlord.tenants.model import Door, Snapshot, Status, Tenant
from landlord.tenants.repository import Repository
from landlord.tenants.service import TenantService
from landlord_operator import conditions, status
from landlord_operator.conditions import Refusal
from landlord_operator.events import Recorder

_log = structlog.get_logger(__name__)


class Sides:
    """Raises ``DatabaseUnavailable`` and :class:`~landlord.kubernetes.KubernetesError`."""

    def __init__(
        self, *, repository: Repository, service: TenantService, resources: TenantResources, recorder: Recorder
    ) -> None:
        self._repository = repository
        self._service = service
        self._resources = resources
        self._recorder = recorder

    async def load(self, name: str) -> Snapshot:
        return await self._repository.load(name)

    async def get(self, namespace: str, name: str) -> Resource | None:
        try:
            return Resource.parse(await self._resources.get(namespace, name))
        except NotFound:
            return None

    def request(self, tenant: Tenant | None, resource: Resource, command: Command) -> Request:
        """On the row as it was seen, and on no other."""
        return Request(
            tenant_id=resource.name,
            command=command,
            who=f"{resource.namespace}/{resource.name}",
            door=Door.KUBERNETES,
            if_match=frozenset({tenant.version if tenant else 0}),
        )

    def foresee(self, snapshot: Snapshot, request: Request) -> Refusal | None:
        """Why the record would not take it: a pure function of row and spec."""
        try:
            self._service.foresee(snapshot, request)
        except Invalid as error:
            return Refusal(reason=conditions.INVALID_SPEC, message=_explained(error))
        except errors.Refusal as error:
            deleting = snapshot.tenant is not None and snapshot.tenant.status is Status.DELETING
            return Refusal(reason=conditions.DELETING if deleting else conditions.INVALID_SPEC, message=str(error))
        return None

    async def submit(self, tenant: Tenant | None, resource: Resource, command: Command) -> None:
        """Through the one accept path. Whatever comes of it is in the row, or will be seen in the next look at it."""
        try:
            await self._service.submit(self.request(tenant, resource, command))
        except TriggerFailed as error:
            _log.warning("trigger failed", tenant=resource.name, error=str(error))
        except errors.Refusal as error:
            _log.info("row moved on", tenant=resource.name, command=type(command).__name__, reason=str(error))

    async def create(self, namespace: str, body: Mapping[str, object]) -> Resource:
        return Resource.parse(await self._resources.create(namespace, body))

    async def patch(self, resource: Resource, operations: list[dict[str, object]]) -> Resource:
        return Resource.parse(await self._resources.patch(resource.namespace, resource.name, operations))

    async def kind_is_going(self) -> bool:
        """The whole kind is being deleted: that is a loss of resources, nobody's wish to delete a tenant.

        Not believed where our account may not know, about which ``definition`` in ``/readyz`` warns.
        """
        try:
            going = await self._resources.kind_is_going()
        except Forbidden:
            return False
        if going:
            _log.error("the definition of Tenant resources is being deleted: resources go, tenants stay")
        return going

    async def delete(self, resource: Resource) -> None:
        version = resource.resource_version
        await self._resources.delete(resource.namespace, resource.name, uid=resource.uid, version=version)

    async def write_status(self, resource: Resource, wanted: status.Status) -> Resource:
        """Only if something changed; with the Events of what did."""
        body = status.patch(resource, wanted)
        if body is None:
            return resource
        written = Resource.parse(await self._resources.patch_status(resource.namespace, resource.name, body))
        self._recorder.tell(resource, before=resource.status, after=written.status)
        return written


def _explained(error: Invalid) -> str:
    faults = [f"{_field(fault.pointer)} {fault.message}" for fault in error.faults]
    return "; ".join(faults) or str(error)


def _field(pointer: str) -> str:
    """In the words of the resource."""
    return "spec" + pointer.replace("/compute_config", "/computeConfig", 1).replace(
        "/compute_provider", "/computeProvider", 1
    ).replace("/", ".")
