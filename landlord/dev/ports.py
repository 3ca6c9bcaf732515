"""Ports on loopback for what is started here."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from landlord.dev.processes import LauncherError

NUMBERS = range(16_000, 20_000)
"""Below those of the tenants' containers and what systems hand out by themselves (Linux from 32768): nobody takes a
port between our look and the server's start, nor that of a server which is away for a moment."""
ATTEMPTS = 3
_LISTENING = "0A"
"""A socket's state, as Linux writes it."""

T = TypeVar("T")


def probe(port: int) -> None:
    """Raises ``OSError`` unless we could listen on it now."""
    with socket.socket() as probing:
        probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probing.bind(("127.0.0.1", port))


def listens(pid: int, *, port: int) -> bool:
    """Whether it is that process, a child of ours, that listens on the port. Believed where there is no ``/proc``."""
    if not Path("/proc/self").exists():
        return True
    process = Path(f"/proc/{pid}")
    try:
        tables = [table for name in ("tcp", "tcp6") if (table := process / "net" / name).exists()]
        rows = [row.split() for table in tables for row in table.read_text().splitlines()[1:]]
        listening = {row[9] for row in rows if row[3] == _LISTENING and row[1].endswith(f":{port:04X}")}
        sockets = {f"socket:[{inode}]" for inode in listening}
        return any(str(descriptor.readlink()) in sockets for descriptor in (process / "fd").iterdir())
    except OSError:  # it has ended, or closed one of them just now
        return False


class Ports:
    """Gives each of the numbers once."""

    def __init__(self, numbers: range) -> None:
        self._numbers = numbers
        self._left = list(numbers)
        random.shuffle(self._left)

    def free(self) -> int:
        """One that nobody listens on now. Raises :class:`LauncherError` if there is none left."""
        while self._left:
            port = self._left.pop()
            with suppress(OSError):
                probe(port)
                return port
        raise LauncherError(f"every port from {self._numbers[0]} to {self._numbers[-1]} is taken")

    def keep(self, port: int) -> None:
        """Give it to nobody: it is for what listens there later, and cannot go to another."""
        with suppress(ValueError):
            self._left.remove(port)


_ours = Ports(NUMBERS)
free_port, keep_port = _ours.free, _ours.keep
"""This process's."""


def taken(error: LauncherError) -> bool:
    """Whether a program did not start because another one listens on its port."""
    return re.search("address (already )?in use", str(error), re.IGNORECASE) is not None


async def on_free_port(start: Callable[[], Awaitable[T]]) -> T:
    """What ``start()`` gives; it is called again with another port where the one it took has been taken meanwhile."""
    for left in reversed(range(ATTEMPTS)):
        try:
            return await start()
        except LauncherError as error:
            if not left or not taken(error):
                raise
    raise AssertionError("the last attempt has returned or raised")
