"""The ``local`` engine: a table in Postgres and asyncio workers; small, for one machine."""

from landlord.workflow.providers.local.provider import LocalProvider

__all__ = ["LocalProvider"]
