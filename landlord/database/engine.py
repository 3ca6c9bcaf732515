"""The connections every process uses, and the one way to run a statement.

Autocommit throughout: each write of Landlord's is one statement, so a transaction of several would only cost round
trips. Statements go to psycopg as they are, without SQLAlchemy, and connections are kept here, because the ready-made
pools cost more than a statement does or let callers wait while Postgres is away (docs/decisions/0012).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson
import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import QueryCanceled, ReadOnlySqlTransaction
from psycopg.pq import PGconn, TransactionStatus
from psycopg.types.json import set_json_loads
from psycopg.waiting import wait_async
from pydantic import SecretStr

from landlord.database.statement import Statement

CONNECT_TIMEOUT = 5
"""Seconds."""
STATEMENT_TIMEOUT = 20
"""Seconds, enforced by the server."""
TIMEOUT = STATEMENT_TIMEOUT + 2 * CONNECT_TIMEOUT
"""Seconds after which the client gives up by itself."""
LEAVE_TIMEOUT = 1
"""Seconds that a statement whose caller has gone has to end, before its connection is taken for one that hangs."""
CLOSE_TIMEOUT = 5
"""Seconds that statements under way have when the pool is closed."""
_SESSION = {
    "statement_timeout": f"{STATEMENT_TIMEOUT}s",
    # What statements and psycopg rest on, whatever the server's, the database's and the role's defaults are.
    "timezone": "UTC",
    "datestyle": "ISO",
    "default_transaction_isolation": r"read\ committed",
    # Our statements look rows up by key. A plan is made once and kept: one made while the tables were nearly empty
    # would read them as a whole, a hundred times slower some minutes later.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
_CONNECTION: dict[str, str | int] = {
    "client_encoding": "UTF8",
    "connect_timeout": CONNECT_TIMEOUT,
    "target_session_attrs": "read-write",  # no standby: of several hosts the one that takes writes
    "application_name": "landlord",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
_SCHEMES = ("postgresql://", "postgres://")
_WRONG = re.compile(rb"^(?:invalid |weak sslmode |definition of service )", re.MULTILINE)
"""How libpq begins what it says of a value, for each host."""

_WHY = {
    "certificate": "certificates do not fit",
    "Connection refused": "connection refused",
    "No such file or directory": "nobody listens there",
    "failed to resolve host": "its host is unknown",
    'database ".*" does not exist': "there is no such database",
    'role ".*" does not exist': "there is no such user",
    "password authentication failed": "user or password is wrong",
    "no password supplied": "it wants a password",
    "no pg_hba.conf entry": "its pg_hba.conf does not let us in",
    "too many clients|too many connections|connection slots": "it has no connection left",
    "starting up": "it is starting up",
    "shutting down": "it is shutting down",
    "read-only": "it takes no writes",
}
"""What libpq says of a connection that was not made, and what we say: its own words hold addresses and names."""

Result = TypeVar("Result")


class Connection(psycopg.AsyncConnection[Any]):
    """One whose hanging does not outlast its caller's time-out: psycopg waits for up to ten seconds more, which is as
    long as a lease of the ``local`` engine lasts."""

    async def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:
        """As psycopg's, but for the time-out."""
        try:
            return await wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                try:
                    async with asyncio.timeout(LEAVE_TIMEOUT):
                        await self.cancel_safe()
                        await wait_async(gen, self.pgconn.socket, interval=interval)
                except QueryCanceled:
                    pass
                except (psycopg.Error, TimeoutError, asyncio.CancelledError):
                    self.pgconn.finish()
            raise


class DatabaseUnavailable(Exception):
    """Postgres cannot be reached, broke off or takes no writes. Whether the statement was applied is not known."""


class Database:
    """At most ``pool_size`` connections to one database, opened as they are needed. ``async with`` closes them."""

    def __init__(self, url: SecretStr, *, pool_size: int) -> None:
        self.conninfo = _conninfo(url.get_secret_value())
        """How every connection is made, a LISTEN's too. It has the password."""
        self._idle: list[Connection] = []
        self._semaphore = asyncio.Semaphore(pool_size)
        self._busy = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def execute(self, statement: Statement, /, **parameters: Any) -> list[Any]:
        """The rows of one statement, which commits by itself.

        Raises :class:`DatabaseUnavailable` when the database goes or is away, else what Postgres refused it for
        (``psycopg.Error``).
        """
        async with self._connection() as connection:
            cursor = psycopg.AsyncRawCursor(connection, row_factory=statement.rows)
            await cursor.execute(statement.sql, statement.arguments(parameters), binary=True)
            has_rows = cursor.pgresult is not None and cursor.pgresult.nfields > 0
            return await cursor.fetchall() if has_rows else []

    async def open(self) -> Connection:
        """A connection that is the caller's own, in autocommit. Raises ``psycopg.Error``."""
        connection = await Connection.connect(self.conninfo, autocommit=True, prepare_threshold=1)
        set_json_loads(orjson.loads, connection)
        return connection

    async def close(self) -> None:
        """Let statements under way end (they may belong to callers that have gone), then close the connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._quiet.wait()
        await self._close_idle()

    async def __aenter__(self) -> Database:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        self._busy += 1
        self._quiet.clear()
        try:
            async with asyncio.timeout(TIMEOUT), self._semaphore:
                connection = await self._kept() or await self.open()
                try:
                    yield connection
                except ReadOnlySqlTransaction:
                    # A standby, say. A session may stay read-only when its server no longer is: it is not used again.
                    await connection.close()
                    raise
                finally:
                    await self._give_back(connection)
        except (psycopg.OperationalError, psycopg.InterfaceError, ReadOnlySqlTransaction, OSError) as error:
            # TimeoutError is an OSError, too.
            raise DatabaseUnavailable(f"Postgres is unavailable ({_why(error)})") from error
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()

    async def _kept(self) -> Connection | None:
        """One that its server has left alone. Else there would be something to read on it, its end above all."""
        while self._idle:
            connection = self._idle.pop()
            unasked = select.poll()
            unasked.register(connection.fileno(), select.POLLIN)
            if not unasked.poll(0):
                return connection
            await connection.close()
        return None

    async def _give_back(self, connection: Connection) -> None:
        if connection.info.transaction_status is TransactionStatus.IDLE:
            self._idle.append(connection)
            return
        # It broke, or a statement was left in the middle: the others were most likely lost with it.
        await connection.close()
        await self._close_idle()

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()


def _why(error: Exception) -> str:
    """In words where no connection was made and they are known, else the kind of error."""
    said = str(error) if type(error) is psycopg.OperationalError else ""
    return next((words for sign, words in _WHY.items() if re.search(sign, said)), type(error).__name__)


def _conninfo(url: str) -> str:
    """Of the URL, with what we ask of a session behind its own ``options`` (a ``search_path``, say)."""
    try:
        if url.startswith(_SCHEMES):
            given = conninfo_to_dict(url)
            for host in str(given.get("host", "")).split(","):
                if not host.startswith("/"):
                    host.encode("idna")  # UnicodeError for what could be nobody's name
            own = given.get("options", os.environ.get("PGOPTIONS", ""))
            options = " ".join([str(own), *(f"-c {name}={value}" for name, value in _SESSION.items())])
            conninfo = make_conninfo(url, options=options, **_CONNECTION)
            if _taken(conninfo, hosts=str(given.get("port", "")).count(",") + 1):
                return conninfo
            raise ValueError("holds a value that libpq does not take: the port's, sslmode's or another parameter's")
    except (psycopg.ProgrammingError, UnicodeError):
        pass
    raise ValueError("not a database URL (postgresql://user:password@host:port/name)")


def _taken(conninfo: str, *, hosts: int) -> bool:
    """Whether libpq takes all values. It says so only when it is to connect: here to where nobody can listen."""
    nowhere = make_conninfo(conninfo, host=",".join(["/dev/null"] * hosts), hostaddr="")
    tried = PGconn.connect_start(nowhere.encode())
    try:
        return _WRONG.search(tried.error_message) is None
    finally:
        tried.finish()
