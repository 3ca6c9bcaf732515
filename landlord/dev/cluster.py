"""Which cluster ``landlord dev`` may use. Never somebody's production cluster: only one that is plainly local."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

_LOCAL_NAMES = ("kind-", "k3d-", "minikube", "docker-desktop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A context of the user's kubeconfig."""

    name: str
    server: str

    @property
    def local(self) -> bool:
        """Made by a tool for clusters on this machine, or served on loopback."""
        return self.name.startswith(_LOCAL_NAMES) or _loopback(urlsplit(self.server).hostname or "")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def contexts() -> tuple[list[Context], str | None]:
    """The contexts of the user's kubeconfig and the name of the current one; nothing where there is none."""
    first = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    path = Path(first) if first else Path.home() / ".kube" / "config"
    try:
        config: Any = yaml.safe_load(path.read_text())
        servers = {entry["name"]: entry["cluster"].get("server", "") for entry in config.get("clusters") or ()}
        found = [
            Context(name=entry["name"], server=servers.get(entry["context"]["cluster"], ""))
            for entry in config.get("contexts") or ()
        ]
        return found, config.get("current-context") or None
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        return [], None


def used(*, state: Path) -> list[str]:
    """The contexts that have got resources of this state's tenants."""
    file = _file(state)
    return file.read_text().splitlines() if file.exists() else []


def remember(name: str, *, state: Path) -> None:
    """Before it gets the first one."""
    if name not in (names := used(state=state)):
        _file(state).write_text("".join(f"{each}\n" for each in (*names, name)))


def forget(*, state: Path) -> None:
    _file(state).unlink(missing_ok=True)


def _file(state: Path) -> Path:
    return state / "contexts"
