"""The engine's errors in the words of the compute interface. Pure.

The engine quotes what it was given, so what is known to be secret is cut out of its messages before anyone sees them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from landlord.compute.provider import ComputeError, ComputeUnavailable, PermanentComputeError

LONGEST = 400
"""Characters of the engine's message that are passed on."""
NOT_CONNECTED = 900
"""The status aiodocker gives where there was no answer at all."""

_PORT_TAKEN = ("port is already allocated", "address already in use")
_TAKEN = re.compile(
    r"(?:Bind for|listen \w+|bind (?:host )?port(?: for)?) (?:\[.*?\]|\d+(?:\.\d+){3}|[\da-f:]+):(\d+)(?!\d)"
)
"""Address and host port, in the wordings of the several releases of the engine."""
_HOPELESS = ("OCI runtime create failed", "unable to find user", "unable to find group")
_NO_IMAGE = ("not found", "manifest unknown", "does not exist", "no matching manifest", "invalid reference format")
_NO_ACCESS = ("unauthorized", "no basic auth credentials", "denied", "authentication required")


class ImageAbsent(ComputeError):
    """The engine does not have the image."""


class Gone(ComputeError):
    """The container or volume is not there (any more)."""


class Conflict(ComputeError):
    """The name is taken, or the container is being removed."""


class PortTaken(ComputeError):
    """A host port belongs to someone else at the moment."""

    def __init__(self, message: str, *, port: int | None) -> None:
        super().__init__(message)
        self.port = port
        """Null where the engine does not say which."""


def translate(*, status: int, message: str, action: str, secrets: Iterable[str] = ()) -> ComputeError:
    """The error to raise for a refused call; ``action`` says what was tried, for users."""
    if status == NOT_CONNECTED:
        return ComputeUnavailable(f"cannot {action}: the Docker engine cannot be reached")
    text = f"cannot {action}: {scrub(message, secrets=secrets)}"
    lower = message.lower()
    if any(sign in message for sign in _PORT_TAKEN):
        named = _TAKEN.search(message)
        return PortTaken(text, port=int(named[1]) if named else None)
    if status == 404:
        if "no such image" in lower:
            return ImageAbsent(text)
        return Gone(text) if "no such container" in lower or "no such volume" in lower else PermanentComputeError(text)
    if status == 409:
        return Conflict(text)
    if status in (400, 401, 403) or any(sign in message for sign in _HOPELESS):
        return PermanentComputeError(text)
    return ComputeError(text)


def translate_pull(*, status: int, message: str, image: str) -> ComputeError:
    """The same for a pull, whose errors arrive with any status or within a stream that began well."""
    if status == NOT_CONNECTED:
        return ComputeUnavailable(f"cannot pull image {image}: the Docker engine cannot be reached")
    lower = message.lower()
    if "toomanyrequests" in lower:
        return ComputeError(f"cannot pull image {image}: the registry's rate limit is reached")
    # "dial tcp: lookup …: no such host" is a registry that cannot be reached, and says nothing of the image.
    answered = "dial tcp" not in lower
    if answered and any(sign in lower for sign in _NO_ACCESS):
        return PermanentComputeError(f"image {image} does not exist or this installation may not pull it")
    if answered and (status == 404 or any(sign in lower for sign in _NO_IMAGE)):
        return PermanentComputeError(f"image {image} does not exist")
    if status == 400:
        return PermanentComputeError(f"cannot pull image {image}: {scrub(message)}")
    return ComputeError(f"cannot pull image {image}: {scrub(message)}")


def scrub(message: str, *, secrets: Iterable[str] = ()) -> str:
    """The first line, shortened, with every secret in it replaced, as it is or as the engine quotes it."""
    given = {secret for secret in secrets if secret.strip()}
    quoted = {json.dumps(secret, ensure_ascii=False)[1:-1] for secret in given}
    for secret in sorted(given | quoted, key=len, reverse=True):
        if len(secret) < 4:  # "sh" or "1" is in ordinary words, paths and addresses: only where it stands alone
            message = re.sub(rf"(?<![\w./:-]){re.escape(secret)}(?![\w/-]|[.:]\w)", "***", message)
        else:
            message = message.replace(secret, "***")
    line = next(iter(message.strip().splitlines()), "")
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
