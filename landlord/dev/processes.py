"""Child processes that cannot outlive us, wherever and however we end.

Each runs behind :mod:`landlord.dev.child`, which asks the kernel for a signal at its parent's death. The kernel means
the *thread* that forked, so children are started from the main thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import structlog

from landlord.dev import child as child_program

POLL = 0.03
"""Seconds between two looks at a component that is starting."""
_TAIL = 2000

_log = structlog.get_logger(__name__)


class LauncherError(Exception):
    """A component was there but did not do what it should."""


class Unavailable(LauncherError):
    """A component cannot be had on this machine. The message says why and how to get it."""


class Child:
    """One running child process. Made by :func:`start`."""

    def __init__(self, process: asyncio.subprocess.Process, *, name: str, log: Path | None, before: int) -> None:
        self._process = process
        self.name = name
        self.log = log
        self._before = before
        """Bytes of the log that are an earlier process's."""
        self._swept = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Null while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def stop(self, *, by: signal.Signals = signal.SIGTERM, timeout: float = 10) -> None:
        """Ask it to end, and make it end after ``timeout`` seconds. Nothing of its process group is left."""
        try:
            self._send(by)
            async with asyncio.timeout(timeout):
                await self.wait()
        except TimeoutError:
            _log.warning("killed, as it did not stop by itself", component=self.name, timeout=timeout)
        finally:
            await self.kill()

    async def kill(self) -> None:
        """End it and its process group at once."""
        if not self._swept:  # only once: the number may be somebody else's later
            self._swept = True
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
                os.killpg(self.pid, signal.SIGKILL)
        await self.wait()

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def end(self) -> LauncherError:
        """That it has ended by itself, in words."""
        return LauncherError(f"{self.name} ended with status {self.returncode}: {self.tail()}")

    def tail(self) -> str:
        """The end of what it has logged, for messages."""
        if self.log is None or not self.log.exists():
            return ""
        return self.log.read_bytes()[self._before :].decode(errors="replace")[-_TAIL:].strip()


async def start(
    argv: Sequence[str | Path],
    *,
    name: str,
    log: Path | None = None,
    user: str | None = None,
    nice: int = 0,
    contained: bool = False,
    death_signal: signal.Signals = signal.SIGKILL,
    environment: Mapping[str, str] | None = None,
    folder: Path = Path("/"),
) -> Child:
    """Start a program in a session of its own, working in ``folder``, without standard input.

    ``user``: run as that one (we must be root). ``contained``: see :func:`landlord.dev.child._contained`.
    ``death_signal`` is what it gets when we end. Output is appended to ``log``, or dropped. Raises ``RuntimeError``
    outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children are started from the main thread: they die with the thread that starts them")
    wrapper = [sys.executable, "-I", "-S", child_program.__file__]
    wrapper += ["--parent", str(os.getpid()), "--death-signal", str(int(death_signal)), "--nice", str(nice)]
    if user is not None:
        wrapper += ["--user", user]
    if contained:
        wrapper.append("--contained")
    output = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    before = 0 if output is None else os.fstat(output).st_size
    try:
        process = await asyncio.create_subprocess_exec(
            *wrapper,
            "--",
            *map(str, argv),
            stdin=DEVNULL,
            stdout=DEVNULL if output is None else output,
            stderr=STDOUT,
            cwd=folder,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )
    finally:
        if output is not None:
            os.close(output)
    return Child(process, name=name, log=log, before=before)


async def run(
    argv: Sequence[str | Path],
    *,
    name: str,
    log: Path | None = None,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path = Path("/"),
    nice: int = 0,
    timeout: float = 60,
) -> int:
    """Run a program to its end and return its exit status. Raises :class:`LauncherError` after ``timeout`` seconds."""
    process = await start(argv, name=name, log=log, user=user, environment=environment, folder=folder, nice=nice)
    try:
        async with asyncio.timeout(timeout):
            return await process.wait()
    except TimeoutError:
        raise LauncherError(f"{name} did not end within {timeout:g} s") from None
    finally:
        await process.kill()


async def until(check: Callable[[], Awaitable[bool]], *, child: Child, timeout: float) -> None:
    """Wait until ``check()`` holds. Raises :class:`LauncherError` when ``child`` ends or ``timeout`` seconds pass."""
    try:
        async with asyncio.timeout(timeout):
            while not await check():
                if child.returncode is not None:
                    raise child.end()
                await asyncio.sleep(POLL)
    except TimeoutError:
        raise LauncherError(f"{child.name} was not ready within {timeout:g} s: {child.tail()}") from None
