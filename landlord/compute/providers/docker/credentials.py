"""The installation's registry credentials, from a Docker ``config.json``.

Only ``auths`` is read (``auth``, ``username`` and ``password``, ``identitytoken``): no credential helper is run.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import orjson

from landlord.compute.provider import ComputeError

DOCKER_HUB = "docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")


def registry_of(image: str) -> str:
    """The registry's host of an image reference: its first part if that looks like one, else Docker Hub's."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return DOCKER_HUB if first in _HUB_NAMES else first
    return DOCKER_HUB


def qualified(image: str) -> str:
    """The reference with its registry's host written out."""
    first, _, rest = image.partition("/")
    if first in _HUB_NAMES:
        image = rest
    elif registry_of(image) != DOCKER_HUB:
        return image
    return f"{DOCKER_HUB}/{image}" if "/" in image else f"{DOCKER_HUB}/library/{image}"


def read_credentials(file: Path, *, registry: str) -> dict[str, str] | None:
    """What to log in with, or None. Blocks on the file; raises :class:`ComputeError` without showing any of it."""
    try:
        auths = orjson.loads(file.read_bytes()).get("auths") or {}
        entry = next((entry for name, entry in auths.items() if _host(name) == registry), None)
        return None if entry is None else _decode(entry)
    except OSError as error:
        raise ComputeError(f"the installation's registry credentials cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError, TypeError, binascii.Error):
        raise ComputeError("the installation's registry credentials are not a Docker config.json") from None


def _host(name: str) -> str:
    """Keys of ``auths`` are hosts, or URLs as the Docker CLI writes them for Docker Hub."""
    host = name.partition("://")[2] or name
    host = host.partition("/")[0]
    return DOCKER_HUB if host in _HUB_NAMES else host


def _decode(entry: dict[str, Any]) -> dict[str, str] | None:
    if token := entry.get("identitytoken"):
        return {"identitytoken": token}
    if auth := entry.get("auth"):
        user, _, password = base64.b64decode(auth, validate=True).decode().partition(":")
        return {"username": user, "password": password.rstrip("\x00")}
    if "username" in entry and "password" in entry:
        return {"username": entry["username"], "password": entry["password"]}
    return None
