"""Postgres: connections, coalesced statements, notifications, migrations."""
