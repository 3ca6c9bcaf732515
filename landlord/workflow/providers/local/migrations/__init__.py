"""Tables of the ``local`` engine: a set of their own, as they may live in another database than the tenants'."""

from __future__ import annotations

from pathlib import Path

from landlord.database.migrate import Migrations

MIGRATIONS = Migrations(name="local_engine", directory=Path(__file__).parent)
