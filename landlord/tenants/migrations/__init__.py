"""Schema of the tenants' database, one alembic revision a file."""

from pathlib import Path

from landlord.database.migrate import Migrations

MIGRATIONS = Migrations(name="tenants", directory=Path(__file__).parent)
