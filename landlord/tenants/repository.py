"""Reading and writing tenants. Concurrent calls are coalesced into one statement each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from msgspec import convert
from msgspec.structs import asdict
from psycopg import DataError, IntegrityError
from psycopg.errors import DeadlockDetected, SerializationFailure

from landlord.database.coalescer import Coalescer
from landlord.database.engine import Database, DatabaseUnavailable
from landlord.tenants import sql
from landlord.tenants.model import (
    Audit,
    Change,
    Door,
    Execution,
    IdempotencyKey,
    Remains,
    Snapshot,
    Status,
    Tenant,
)

_ATTEMPTS = 5
"""Of a statement that Postgres broke off for another's sake."""
PURGE_BATCH = 1000
"""Rows one purging statement removes at most: what has gathered for long would take longer than a statement may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """An idempotency key that was used before."""

    body_digest: str
    execution_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which tenants a list shows."""

    status: Status | None = None
    compute_provider: str | None = None
    labels: Mapping[str, str] | None = None
    include_deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """How many tenants are in a status, and for how many seconds the oldest that has not converged has been."""

    status: Status
    tenants: int
    oldest: float


class Repository:
    """The tenants' tables. Every method may raise :class:`DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._commits: Coalescer[Change, bool] = Coalescer(
            self._commit, key=lambda change: change.tenant.id, isolate=_one_may_be_to_blame
        )
        self._loads: Coalescer[str, Snapshot] = Coalescer(self._load, isolate=_one_may_be_to_blame)
        self._looks: Coalescer[tuple[str, int, float | None], None] = Coalescer(self._look_at)

    @property
    def depth(self) -> int:
        """Changes that wait to be written."""
        return self._commits.depth

    async def load(self, tenant_id: str) -> Snapshot:
        """The tenant (or that there is none) as of now."""
        return await self._loads(tenant_id)

    async def commit(self, change: Change) -> bool:
        """Write the change if the row is still at the revision it was decided on; whether it was.

        Where the connection broke and the outcome is unknown, the trail is searched for the change first.
        """
        try:
            return await self._commits(change)
        except DatabaseUnavailable:
            if change.audit is None:
                raise
            if await self._was_applied(change.audit.change_id):
                return True
            raise

    async def _was_applied(self, change_id: str) -> bool:
        for pause in (0.05, 0.2, 0.5, 1.0):
            await asyncio.sleep(pause)
            try:
                return await self.applied(change_id)
            except DatabaseUnavailable:
                continue
        return False

    async def applied(self, change_id: str) -> bool:
        """Whether that change is in the trail."""
        return bool(await self._database.execute(sql.APPLIED, change_id=change_id))

    async def key(self, key: IdempotencyKey) -> StoredKey | None:
        """The earlier use of an idempotency key."""
        rows = await self._database.execute(sql.KEY, caller=key.caller, method=key.method, path=key.path, key=key.key)
        return StoredKey(**rows[0]._asdict()) if rows else None

    async def page(self, *, filter: Filter, after: str | None, limit: int) -> list[Snapshot]:  # noqa: A002
        """Tenants in the order of ids, those after ``after``; of their executions the head, while it is open."""
        statement = sql.page(**_given(filter), after=after is not None)
        rows = await self._database.execute(statement, **_parameters(filter), after=after, limit=limit)
        return list(_snapshots(rows).values())

    async def count(self, *, filter: Filter) -> int:  # noqa: A002
        """How many tenants a list would show, all pages together."""
        [row] = await self._database.execute(sql.count(**_given(filter)), **_parameters(filter))
        return int(row.count)

    async def executions(self, tenant_id: str, *, before: int, limit: int) -> list[tuple[int, Execution]]:
        """With their sequence numbers, newest first, below ``before``."""
        rows = await self._database.execute(sql.EXECUTIONS, id=tenant_id, before=before, limit=limit)
        return [(seq, _execution(values)) for seq, *values in rows]

    async def execution(self, execution_id: str) -> Execution | None:
        """One of any tenant's, open or ended; null where there is none of that id."""
        rows = await self._database.execute(sql.EXECUTION_BY_ID, id=execution_id)
        return _execution(rows[0]) if rows else None

    async def audit(self, tenant_id: str, *, before: int, limit: int) -> list[tuple[int, Audit]]:
        """The trail with its sequence numbers, newest first, below ``before``."""
        rows = await self._database.execute(sql.AUDIT, id=tenant_id, before=before, limit=limit)
        return [(row.seq, _audit(row.audit)) for row in rows]

    async def claim(self, *, limit: int, lease: float) -> list[str]:
        """Tenants that are due; nobody else gets them for ``lease`` seconds."""
        return [row.id for row in await self._database.execute(sql.CLAIM, limit=limit, lease=lease)]

    async def look_at(self, tenant: Tenant, *, seconds: float | None) -> None:
        """When somebody has to look again (null: nobody has to), unless the tenant has been changed meanwhile."""
        await self._looks((tenant.id, tenant.revision, seconds))

    async def wake(self) -> None:
        """Everybody who waits is due now: the engine is back."""
        await self._database.execute(sql.WAKE)

    async def owners(self, execution_ids: Sequence[str]) -> list[str]:
        """The tenants these executions belong to."""
        return [row.tenant_id for row in await self._database.execute(sql.OWNERS, ids=list(execution_ids))]

    async def in_flight(self) -> list[InFlight]:
        """One for each status that a tenant has."""
        return [
            InFlight(status=Status(row.status), tenants=row.tenants, oldest=float(row.oldest or 0))
            for row in await self._database.execute(sql.IN_FLIGHT)
        ]

    async def purge(self, *, tombstones: float, keys: float) -> None:
        """Forget tombstones and idempotency keys older than so many seconds; what must never repeat is kept."""
        for statement, older in ((sql.PURGE_TOMBSTONES, tombstones), (sql.PURGE_KEYS, keys)):
            gone = PURGE_BATCH
            while gone == PURGE_BATCH:
                [row] = await self._database.execute(statement, older=older, most=PURGE_BATCH)
                gone = row.gone

    async def resources(self, *, after: str, limit: int) -> list[dict[str, Any]]:
        """Which resource each row has, by pages in the order of ids."""
        return [row._asdict() for row in await self._database.execute(sql.RESOURCES, after=after, limit=limit)]

    async def _commit(self, changes: Sequence[Change]) -> list[bool]:
        document = orjson.dumps([_encode(change) for change in changes]).decode()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return [row.applied for row in await self._database.execute(sql.COMMIT, changes=document)]
            except DatabaseUnavailable as error:
                if attempt == _ATTEMPTS or not _broken_off(error):
                    raise
            await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    async def _load(self, tenant_ids: Sequence[str]) -> list[Snapshot]:
        document = orjson.dumps(list(dict.fromkeys(tenant_ids))).decode()
        found = _snapshots(await self._database.execute(sql.LOAD, ids=document))
        return [found[tenant_id] for tenant_id in tenant_ids]

    async def _look_at(self, items: Sequence[tuple[str, int, float | None]]) -> list[None]:
        document = orjson.dumps(
            [{"id": tenant_id, "revision": revision, "seconds": seconds} for tenant_id, revision, seconds in items]
        ).decode()
        await self._database.execute(sql.LOOK_AT, items=document)
        return [None] * len(items)


def _one_may_be_to_blame(error: Exception) -> bool:
    return isinstance(error, IntegrityError | DataError)


def _broken_off(error: DatabaseUnavailable) -> bool:
    """Postgres undid the statement because of others: it can be run again."""
    return isinstance(error.__cause__, DeadlockDetected | SerializationFailure)


def _given(wanted: Filter) -> dict[str, bool]:
    return {
        "status": wanted.status is not None,
        "compute_provider": wanted.compute_provider is not None,
        "labels": bool(wanted.labels),
        "include_deleted": wanted.include_deleted or wanted.status is Status.DELETED,
    }


def _parameters(wanted: Filter) -> dict[str, Any]:
    return {
        "status": wanted.status,
        "compute_provider": wanted.compute_provider,
        "labels": orjson.dumps(dict(wanted.labels)).decode() if wanted.labels else None,
    }


def _encode(change: Change) -> dict[str, Any]:
    executions = [{**_encode_execution(execution), "added": False} for execution in change.updated]
    if change.added is not None:
        executions.append({**_encode_execution(change.added), "added": True})
    return {
        "tenant": asdict(change.tenant),
        "expected": change.expected,
        "executions": executions,
        "audit": asdict(change.audit) if change.audit else None,
        "key": asdict(change.key) if change.key else None,
    }


def _encode_execution(execution: Execution) -> dict[str, Any]:
    value = asdict(execution)
    if execution.payload is not None:
        value["payload"] = "\\x" + execution.payload.hex()
    return value


_TENANT = slice(2, 2 + len(sql.TENANT))
_EXECUTION = slice(_TENANT.stop, _TENANT.stop + len(sql.EXECUTION))
_REMAINS = slice(_EXECUTION.stop, None)


def _snapshots(rows: Iterable[Sequence[Any]]) -> dict[str, Snapshot]:
    """By id, in the order of the rows. A tenant has a row for each of its executions, at least one."""
    firsts: dict[str, Sequence[Any]] = {}
    executions: dict[str, list[Execution]] = {}
    for row in rows:
        tenant_id = row[0]
        firsts.setdefault(tenant_id, row)
        found = executions.setdefault(tenant_id, [])
        if row[_EXECUTION.start] is not None:
            found.append(_execution(row[_EXECUTION]))
    return {
        tenant_id: Snapshot(
            id=tenant_id,
            now=row[1],
            tenant=_tenant(row[_TENANT]) if row[_TENANT.start] is not None else None,
            executions=tuple(executions[tenant_id]),
            remains=_remains(*row[_REMAINS]),
        )
        for tenant_id, row in firsts.items()
    }


def _remains(generation: int | None, version: int | None, counters: dict[str, int] | None) -> Remains:
    if generation is None or version is None or counters is None:
        return Remains()
    return Remains(generation=generation, version=version, counters=counters)


def _tenant(values: Sequence[Any]) -> Tenant:
    return convert(dict(zip(sql.TENANT, values, strict=True)), Tenant)


def _execution(values: Sequence[Any]) -> Execution:
    return convert(dict(zip(sql.EXECUTION, values, strict=True)), Execution)


def _audit(value: dict[str, Any]) -> Audit:
    del value["seq"]
    value["at"] = datetime.fromisoformat(value["at"])
    value["door"] = Door(value["door"])
    value["from_status"] = Status(value["from_status"]) if value["from_status"] else None
    value["to_status"] = Status(value["to_status"])
    return Audit(**value)
