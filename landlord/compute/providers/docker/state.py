"""What the engine's inspection of a container says about the tenant. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from landlord.compute.provider import LABEL_GENERATION, ComputeState, ComputeStatus, Endpoint, Outputs
from landlord.compute.providers.docker.container import LABEL_CONFIG, LABEL_PORTS, LABEL_RESTART_POLICY, MIB, claims

SETTLED = 5.0
"""Seconds without a restart after which a container that nothing checks counts as running."""
CRASHES = 8
"""Restarts after which a container that restarts is given up: the engine doubles its pause, so that is about 25 s."""
SIGKILLED = 128 + 9
"""Exit code of a program that was killed."""
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - recognised, not bound


@dataclass(frozen=True, slots=True)
class Found:
    """One container of a tenant, as inspected."""

    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.data["Id"])

    @property
    def generation(self) -> int:
        return label_generation(self._labels)

    @property
    def digest(self) -> str:
        return self._labels.get(LABEL_CONFIG, "")

    @property
    def state(self) -> str:
        """The engine's word: created, running, paused, restarting, removing, exited or dead."""
        return str(self.data["State"]["Status"])

    @property
    def active(self) -> bool:
        """Whether it holds its ports and volumes now or may at any moment."""
        return self.state in ("running", "restarting", "paused")

    @property
    def serving(self) -> bool:
        """Whether users may be relying on it.

        Where nothing checks health, one that ever ended by itself does not count: between two ends it looks the same.
        """
        if self.checked is None:
            return self.state == "running" and not self.data.get("RestartCount")
        return self.state == "running" and self.checked == "healthy"

    @property
    def checked(self) -> str | None:
        """The engine's verdict (starting, healthy, unhealthy); None where nothing checks."""
        status = (self.data["State"].get("Health") or {}).get("Status")
        return None if status in (None, "", "none") else str(status)

    @property
    def claims(self) -> frozenset[str]:
        return claims(self.data["HostConfig"])

    @property
    def policy_in_force(self) -> str:
        """By what the engine decides now whether it starts the container by itself."""
        return str(self.data["HostConfig"]["RestartPolicy"]["Name"])

    @property
    def restart_policy(self) -> str:
        """Its spec's. One that an older release made has no label of it and is taken at the engine's word."""
        return self._labels.get(LABEL_RESTART_POLICY) or self.policy_in_force

    @property
    def age(self) -> tuple[int, str]:
        """Sorts a tenant's containers from the oldest to the newest."""
        return self.generation, str(self.data.get("Created", ""))

    @property
    def _labels(self) -> Mapping[str, str]:
        """By some of them it was found."""
        labels: Mapping[str, str] = self.data["Config"]["Labels"]
        return labels

    @property
    def needs_clock(self) -> bool:
        """Whether :func:`describe` depends on the engine's time."""
        return self.state == "running" and self.checked is None


def label_generation(labels: Mapping[str, str]) -> int:
    """0 where the label is missing or spoilt: older than everything, so that it can be replaced and destroyed."""
    value = labels.get(LABEL_GENERATION, "")
    return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else 0


def to_revive(others: Sequence[Found]) -> Sequence[Found]:
    """What is to be started again when a new container has failed, of the tenant's others, the oldest first.

    Where nothing is active, the oldest: it served last, and a worker that was killed may have stopped it. One that has
    never run has served nobody.
    """
    return [] if any(one.active for one in others) else [one for one in others[:1] if one.state == "exited"]


def outputs(found: Found, *, publish_address: str, config: Mapping[str, Any], health: str) -> Outputs:
    return Outputs(
        resources={"container": found.id, "image": str(found.data["Image"])},
        endpoints=endpoints(found.data, publish_address=publish_address),
        health=health,
        config=dict(config),
    )


def endpoints(data: Mapping[str, Any], *, publish_address: str) -> Sequence[Endpoint]:
    """Where the tenant is reached from the engine's machine, in the order of the container's ports."""
    address = _WILDCARDS.get(publish_address, publish_address)
    names = orjson.loads(data["Config"]["Labels"].get(LABEL_PORTS) or "{}")
    bindings = data["HostConfig"].get("PortBindings") or {}
    direct = data["HostConfig"].get("NetworkMode") == "host"
    found = []
    for key in sorted(names, key=lambda key: (int(key.partition("/")[0]), key)):
        bound = [binding["HostPort"] for binding in bindings.get(key) or () if binding.get("HostPort")]
        port = key.partition("/")[0] if direct else next(iter(bound), None)
        if port is not None:
            found.append(
                Endpoint(name=names[key]["name"], protocol=names[key]["scheme"], address=address, port=int(port))
            )
    return found


def describe(found: Found, *, publish_address: str, now: datetime | None) -> ComputeStatus:
    """The tenant's status; ``now`` is the engine's time and needed where :attr:`Found.needs_clock`."""
    state, health, message = _judge(found, now=now)
    return ComputeStatus(
        state=state,
        generation=found.generation,
        outputs=outputs(found, publish_address=publish_address, config={}, health=health),
        message=message,
    )


def _judge(found: Found, *, now: datetime | None) -> tuple[ComputeState, str, str]:
    restarts = int(found.data.get("RestartCount", 0))
    match found.state:
        case "running":
            return _judge_running(found, now=now, restarts=restarts)
        case "created":
            return ComputeState.STARTING, "starting", "created, not started yet"
        case "restarting":
            state = ComputeState.FAILED if restarts >= CRASHES else ComputeState.STARTING
            return state, "unhealthy", f"keeps exiting ({restarts} restarts): {_exit(found.data)}"
        case "paused":
            return ComputeState.STOPPED, "unhealthy", "paused"
        case "exited" if found.data["State"].get("ExitCode") == 0 and not found.data["State"].get("OOMKilled"):
            return ComputeState.STOPPED, "unhealthy", _exit(found.data)
        case _:
            return ComputeState.FAILED, "unhealthy", _exit(found.data)


def _judge_running(found: Found, *, now: datetime | None, restarts: int) -> tuple[ComputeState, str, str]:
    health = found.data["State"].get("Health") or {}
    code = next((entry.get("ExitCode") for entry in reversed(health.get("Log") or ())), None)
    match found.checked:
        case "healthy":
            return ComputeState.RUNNING, "healthy", ""
        case "unhealthy":
            failures = health.get("FailingStreak", 0)
            return (
                ComputeState.RUNNING,
                "unhealthy",
                f"health check failed {failures} times in a row (exit code {code})",
            )
        case None if (
            now is not None and (now - parse_time(found.data["State"]["StartedAt"])).total_seconds() >= SETTLED
        ):
            return ComputeState.RUNNING, "unchecked", ""
        case _ if restarts:
            return ComputeState.STARTING, "starting", f"restarted {restarts} times, last {_exit(found.data)}"
        case _ if code:
            return ComputeState.STARTING, "starting", f"the last health check failed (exit code {code})"
        case _:
            return ComputeState.STARTING, "starting", ""


def _exit(data: Mapping[str, Any]) -> str:
    """Why it ended, without the program's own words and without the engine's (they may quote the environment)."""
    state, limit = data["State"], int(data["HostConfig"].get("Memory") or 0) // MIB
    if state.get("OOMKilled"):
        return f"out of memory (exit code {state.get('ExitCode')}, limit {limit} MiB)"
    if state.get("ExitCode") == SIGKILLED and limit:
        # With cgroup v2 the engine hears of it only sometimes: https://github.com/hashicorp/nomad/issues/13119
        return f"killed, perhaps out of memory (exit code {SIGKILLED}, limit {limit} MiB)"
    return f"exit code {state.get('ExitCode')}"


def parse_time(text: str) -> datetime:
    """The engine's RFC 3339 times have nanoseconds; those are cut to microseconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
