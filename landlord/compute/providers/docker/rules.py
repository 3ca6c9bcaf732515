"""What the schema cannot say: rules across fields, and what this installation allows its tenants. Pure.

Host access is the installation's choice, never a tenant's. An allowed host directory should be one in which tenants
cannot make symbolic links by another way: the engine follows those, and only the written path is checked here.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from landlord.compute.provider import ConfigFault
from landlord.settings import Settings

RESERVED = "landlord.dev/"
FREE_NETWORKS = ("bridge", "none")


def check(config: Mapping[str, Any], *, settings: Settings) -> Sequence[ConfigFault]:
    """All faults. The parts of ``config`` that are there satisfy the schema."""
    return [
        *_labels(config),
        *_network(config, settings=settings),
        *_ports(config),
        *_volumes(config, settings=settings),
        *_privileged(config, settings=settings),
    ]


def allowed(path: str, *, prefixes: Sequence[str]) -> bool:
    """Whether an absolute host path is one of the prefixes or below one. A path that goes upwards never is."""
    if not path.startswith("/") or ".." in path.split("/"):
        return False
    normal = _normal(path)
    return any(
        posixpath.commonpath([normal, _normal(prefix)]) == _normal(prefix)
        for prefix in prefixes
        if prefix.startswith("/")
    )


def _normal(path: str) -> str:
    """POSIX leaves two leading slashes alone; a file system does not."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _labels(config: Mapping[str, Any]) -> Iterator[ConfigFault]:
    if any(name.startswith(RESERVED) for name in config.get("labels", {})):
        yield ConfigFault(path="/labels", message=f"must not have keys that start with {RESERVED}")


def _network(config: Mapping[str, Any], *, settings: Settings) -> Iterator[ConfigFault]:
    network = config.get("network", "bridge")
    options = [*FREE_NETWORKS, *settings.docker_networks, *(["host"] if settings.docker_allow_host_network else [])]
    if network not in options or (network == "host" and not settings.docker_allow_host_network):
        yield ConfigFault(
            path="/network", message=f"is not allowed by this installation; allowed: {', '.join(options)}"
        )
    if network == "none" and config.get("ports"):
        yield ConfigFault(path="/ports", message="cannot be published without a network")
    if network == "host":
        for index, port in enumerate(config.get("ports", ())):
            if port.get("host_port", port["container_port"]) != port["container_port"]:
                yield ConfigFault(
                    path=f"/ports/{index}/host_port", message="must be the container's port in the host's network"
                )


def _ports(config: Mapping[str, Any]) -> Iterator[ConfigFault]:
    seen: dict[str, set[Any]] = {"container_port": set(), "host_port": set(), "name": set()}
    for index, port in enumerate(config.get("ports", ())):
        transport = port.get("protocol", "tcp")
        for key, values in seen.items():
            if key not in port:
                continue
            value = port[key] if key == "name" else (int(port[key]), transport)
            if value in values:
                yield ConfigFault(path=f"/ports/{index}/{key}", message="is used twice")
            values.add(value)


def _volumes(config: Mapping[str, Any], *, settings: Settings) -> Iterator[ConfigFault]:
    targets = set()
    for key in ("volumes", "tmpfs"):
        for index, mount in enumerate(config.get(key, ())):
            path = f"/{key}/{index}"
            target = _normal(mount["target"])
            if target == "/" or ".." in mount["target"].split("/"):
                yield ConfigFault(path=f"{path}/target", message="must be a directory below / without ..")
            elif target in targets:
                yield ConfigFault(path=f"{path}/target", message="is used twice")
            targets.add(target)
            if "source" in mount and not allowed(mount["source"], prefixes=settings.docker_allow_volumes):
                where = ", ".join(settings.docker_allow_volumes) or "no host path"
                yield ConfigFault(
                    path=f"{path}/source", message=f"is not allowed by this installation; allowed: {where}"
                )


def _privileged(config: Mapping[str, Any], *, settings: Settings) -> Iterator[ConfigFault]:
    if config.get("privileged") and not settings.docker_allow_privileged:
        yield ConfigFault(path="/privileged", message="is not allowed by this installation")
