"""Bearer tokens from a file of ``name:sha256-of-the-token`` lines; ``:callbacks`` behind one makes it a worker's, good
for nothing but saying that an execution has ended.

A token is a long random text, so its SHA-256 gives nothing away and needs no salt. Every entry is compared with, in
constant time, so that how long an answer takes says nothing either.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from pathlib import Path
from typing import NamedTuple

import structlog

from landlord.settings import PREFIX, ConfigurationError

KEY = f"{PREFIX}API_TOKENS_FILE"
POLL = 1.0
"""Seconds between looks at the file."""

CALLBACKS = "callbacks"
"""The one scope there is; a token without a scope may do everything."""

_LINE = re.compile(
    rf"(?P<name>[A-Za-z0-9][A-Za-z0-9._@-]{{0,63}}):(?P<digest>[0-9A-Fa-f]{{64}})(?::(?P<scope>{CALLBACKS}))?", re.ASCII
)
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]{1,1024})", re.ASCII)
_log = structlog.get_logger(__name__)

Stamp = tuple[int, int, int]


class Caller(NamedTuple):
    """Whose token it is. ``scope`` is all it may do; null for everything."""

    name: str
    scope: str | None


class Tokens:
    """Who may call. The file must be right at the start; a later change that is wrong changes nobody."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`ConfigurationError`."""
        self._path = path
        try:
            self._stamp = _stamp(path)
            self._entries = _read(path)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{KEY}: {_brief(error, path)}") from None
        self._fault = ""

    def caller(self, authorization: str | None) -> Caller | None:
        """Whose token is in an ``Authorization`` header, or null."""
        given = _BEARER.fullmatch(authorization) if authorization else None
        digest = hashlib.sha256(given[1].encode() if given else b"").digest()
        caller: Caller | None = None
        for each, expected in self._entries:
            if hmac.compare_digest(expected, digest):
                caller = each
        return caller if given else None

    async def follow(self) -> None:
        """Read the file again whenever it changes, for ever."""
        while True:
            await asyncio.sleep(POLL)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Read the file if it has changed. A file that is wrong is logged once, and the callers stay as they are."""
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp and not self._fault:
                return
            entries = _read(self._path)
        except (OSError, ValueError) as error:
            fault = _brief(error, self._path)
            if fault != self._fault:
                _log.error("the tokens file is wrong; the callers stay as they were", reason=fault)
                self._fault = fault
            return
        _log.info("the tokens file was read again", callers=len(entries))
        self._stamp, self._entries, self._fault = stamp, entries, ""


def _stamp(path: Path) -> Stamp:
    """What changes with the file, also when another is moved or linked into its place (as Kubernetes does)."""
    state = path.stat()
    return state.st_ino, state.st_mtime_ns, state.st_size


def _read(path: Path) -> tuple[tuple[Caller, bytes], ...]:
    """Callers and digests. Raises ``OSError``, and ``ValueError`` with the line's number but nothing of the line."""
    entries: list[tuple[Caller, bytes]] = []
    lines: dict[bytes, int] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            raise ValueError(f"line {number} is not name:sha256-in-hexadecimal, or that with :{CALLBACKS} behind it")
        digest = bytes.fromhex(found["digest"])
        if (earlier := lines.setdefault(digest, number)) != number:  # whose would it be?
            raise ValueError(f"line {number} has the token of line {earlier}")
        entries.append((Caller(found["name"], found["scope"]), digest))
    if not entries:
        raise ValueError("it names nobody")
    return tuple(entries)


def _brief(error: Exception, path: Path) -> str:
    if isinstance(error, OSError):
        return f"cannot read {path}: {error.strerror}"
    if isinstance(error, UnicodeDecodeError):
        return f"{path} is not text"
    return f"{path}: {error}"
