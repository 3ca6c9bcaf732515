"""LISTEN with a connection of its own, which comes back by itself.

A notification is only a hint: whatever was sent while the connection was away is lost, so everybody who listens also
gets a :data:`RECONNECTED` after each (re)connect and must then look for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import psycopg
import structlog

RECONNECTED = ""
"""Stands for everything that may have been missed."""

AGAIN = 1.0
"""Seconds before a connection that broke is opened anew."""

_log = structlog.get_logger(__name__)


async def listen(conninfo: str, *, channel: str) -> AsyncGenerator[str, None]:
    """Payloads sent on ``channel``, for ever; :data:`RECONNECTED` after each connect. Raises nothing: it reconnects."""
    away = False
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                conninfo, autocommit=True, application_name="landlord listen"
            ) as connection:
                await connection.execute(psycopg.sql.SQL("listen {}").format(psycopg.sql.Identifier(channel)))
                if away:
                    _log.info("listening again", channel=channel)
                away = False
                yield RECONNECTED
                async for notification in connection.notifies():
                    yield notification.payload
        except psycopg.Error as error:
            if not away:
                _log.warning("cannot listen", channel=channel, error=type(error).__name__)
            away = True
            await asyncio.sleep(AGAIN)
