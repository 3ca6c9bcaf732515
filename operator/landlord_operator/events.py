"""Kubernetes Events of a tenant: one for each transition that somebody may want to know of, no others."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from landlord.kubernetes import API_VERSION, KIND, KubernetesError, TenantResources
from landlord.mirror import Resource
from landlord_operator.conditions import READY, STALLED, timestamp

WAITING = 10_000
"""Events that may wait to be written."""

_SILENT = {"Planning", "Provisioning", "Updating", "Requested", "UpdatePending"}
"""Steps on the way: what the status says for a moment."""
_QUIET = {"Ready", "Paused", "Deleting"}
"""What is as it should be."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What an Event tells."""

    normal: bool
    reason: str
    message: str


def transitions(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Transition]:
    """What changed from one status of a resource to the next."""
    earlier, later = _conditions(before), _conditions(after)
    told = None
    ready = later.get(READY)
    if ready and ready["reason"] not in _SILENT and ready["reason"] != earlier.get(READY, {}).get("reason"):
        told = ready["reason"]
        yield Transition(normal=told in _QUIET, reason=told, message=ready["message"])
    stalled = later.get(STALLED)
    if (
        stalled
        and stalled["status"] == "True"
        and stalled["reason"]
        not in (
            told,
            earlier.get(STALLED, {}).get("reason"),
        )
    ):
        yield Transition(normal=False, reason=stalled["reason"], message=stalled["message"])


def _conditions(status: Mapping[str, Any]) -> dict[str, Any]:
    return {each["type"]: each for each in status.get("conditions") or ()}


class Recorder:
    """Writes Events, one after the other, while :meth:`run` runs: no status waits for them.

    What cannot be written, and what is too much, is forgotten: the status says the same.
    """

    def __init__(self, resources: TenantResources) -> None:
        self._resources = resources
        self._instance = socket.gethostname()
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(WAITING)

    def tell(self, resource: Resource, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """The Events of one status write that has just been made."""
        for transition in transitions(before, after):
            try:
                self._waiting.put_nowait(self._event(resource, transition))
            except asyncio.QueueFull:
                _log.warning("event not recorded", tenant=resource.name, reason=transition.reason, error="too many")

    async def run(self) -> None:
        """Write for ever."""
        while True:
            event = await self._waiting.get()
            try:
                await self._resources.record(event["metadata"]["namespace"], event)
            except KubernetesError as error:
                name = event["involvedObject"]["name"]
                _log.info("event not recorded", tenant=name, reason=event["reason"], error=str(error))
            except Exception:  # noqa: BLE001 - an event that cannot be written must not stop the others
                _log.exception("event not recorded", reason=event["reason"])

    def _event(self, resource: Resource, transition: Transition) -> dict[str, Any]:
        now = timestamp(datetime.now(UTC))
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{resource.name}.{uuid.uuid4().hex[:16]}", "namespace": resource.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": resource.name,
                "namespace": resource.namespace,
                "uid": resource.uid,
                "resourceVersion": resource.resource_version,
            },
            "type": "Normal" if transition.normal else "Warning",
            "reason": transition.reason,
            "message": transition.message,
            "source": {"component": "landlord-operator", "host": self._instance},
            "reportingComponent": "landlord.dev/operator",
            "reportingInstance": self._instance,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
