"""Many tenants at once: copies of one that the system itself has made ready, written by SQL."""

from __future__ import annotations

from psycopg import sql

from benchmarks.client import connected
from benchmarks.parts import Installation
from landlord.tenants.sql import EXECUTION, TENANT

MODEL = "model"
PREFIX = "tenant-"
BODY = '{"id":"%s","compute_config":{"image":"registry.example/shop:1.4.2","replicas":2},"labels":{"plan":"gold"}}'

_COPY_TENANTS = sql.SQL(
    """
    insert into tenants ({columns})
    select {copied} from tenants t, generate_series(0, %(count)s - 1) i, lateral jsonb_populate_record(t,
        jsonb_build_object(
            'id', %(prefix)s || i,
            'incarnation', gen_random_uuid(),
            'head', replace(t.head, %(model)s, %(prefix)s || i)
        )
    ) copy
    where t.id = %(model)s
    """
)
_COPY_EXECUTIONS = sql.SQL(
    """
    insert into executions ({columns})
    select {copied} from executions e, generate_series(0, %(count)s - 1) i, lateral jsonb_populate_record(e,
        jsonb_build_object(
            'tenant_id', %(prefix)s || i,
            'execution_id', replace(e.execution_id, %(model)s, %(prefix)s || i)
        )
    ) copy
    where e.tenant_id = %(model)s
    """
)


async def fill(installation: Installation, *, count: int) -> None:
    """So many ready tenants ``tenant-0``, ``tenant-1`` …; the processes that make the first must run."""
    async with connected(installation.url) as client:
        status, answer = await client.request("POST", "/api/tenants", body=BODY % MODEL)
        if status != 202:
            raise RuntimeError(f"no model for the rows: {status} {answer!r}")
        await client.until_ready(MODEL)
    given = {"count": count, "prefix": PREFIX, "model": MODEL}
    async with installation.sql() as connection:
        for statement, names in ((_COPY_TENANTS, TENANT), (_COPY_EXECUTIONS, EXECUTION)):
            columns = sql.SQL(", ").join(map(sql.Identifier, names))
            copied = sql.SQL(", ").join(sql.Identifier("copy", name) for name in names)
            await connection.execute(statement.format(columns=columns, copied=copied), given)
        await connection.execute("vacuum analyze")
