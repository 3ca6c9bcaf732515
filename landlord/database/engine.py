"""The connection pool every process uses.

Autocommit throughout: each write of Landlord's is one statement, so a transaction of several would only cost round
trips. A semaphore stands before SQLAlchemy's pool, whose own queue is unfair (a released connection goes to the next
comer, waiters starve).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

CONNECT_TIMEOUT = 5
"""Seconds."""
STATEMENT_TIMEOUT = 20
"""Seconds, enforced by the server; a few more and the client gives up by itself."""
CLOSE_TIMEOUT = 5
"""Seconds that statements under way have when the pool is closed."""
_SESSION = {
    "statement_timeout": f"{STATEMENT_TIMEOUT}s",
    "timezone": "UTC",
    # Our statements look rows up by key. A plan is made once and kept: one made while the tables were nearly empty
    # would read them as a whole, a hundred times slower some minutes later.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


class DatabaseUnavailable(Exception):
    """Postgres cannot be reached or broke off. Whether the statement was applied is not known."""


class Database:
    """A pool of connections to one database. ``async with`` opens and closes it."""

    def __init__(self, url: SecretStr, *, pool_size: int) -> None:
        try:
            parsed = make_url(url.get_secret_value()).set(drivername="postgresql+psycopg")
        except ArgumentError:
            raise ValueError("not a database URL (postgresql://user:password@host:port/name)") from None
        self._engine = create_async_engine(
            parsed,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,  # an error's text must not carry what tenants have configured
            skip_autocommit_rollback=True,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=CONNECT_TIMEOUT,
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT,
                "prepare_threshold": 1,
                "options": " ".join(f"-c {name}={value}" for name, value in _SESSION.items()),
                "application_name": "landlord",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 2,
            },
        )
        self._url = parsed
        self._semaphore = asyncio.Semaphore(pool_size)
        self._busy = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def libpq_url(self) -> str:
        """For the one thing that needs a connection of its own: LISTEN."""
        return self._url.set(drivername="postgresql").render_as_string(hide_password=False)

    async def close(self) -> None:
        """Let statements under way end (they may belong to callers that have gone), then close the connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._quiet.wait()
        await self._engine.dispose()

    async def __aenter__(self) -> Database:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection in autocommit. Raises :class:`DatabaseUnavailable` when the database goes or is away."""
        self._busy += 1
        self._quiet.clear()
        try:
            async with (
                asyncio.timeout(STATEMENT_TIMEOUT + 2 * CONNECT_TIMEOUT),
                self._semaphore,
                self._engine.connect() as connection,
            ):
                yield connection
        except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
            raise DatabaseUnavailable(_brief(error)) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise DatabaseUnavailable(_brief(error)) from error
            raise
        except TimeoutError as error:
            raise DatabaseUnavailable("no answer from Postgres in time") from error
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()


def _brief(error: BaseException) -> str:
    """The kind of failure only: libpq's texts name hosts and users."""
    cause = getattr(error, "orig", None) or error
    return f"Postgres is unavailable ({type(cause).__name__})"
