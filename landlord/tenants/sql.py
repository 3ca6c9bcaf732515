"""Every statement on the tenants' tables.

Rows are written as JSON: ``jsonb_populate_record`` gives each field the type of its column. They are read as columns,
which costs both sides half of what JSON does. Either way a column is named in the migration and in the model only.
"""

from __future__ import annotations

from functools import cache

from landlord.database.statement import Statement
from landlord.tenants.model import Execution, Tenant

CHANNEL = "landlord_tenants"
"""NOTIFY channel; the payload is the ids of the tenants just changed, separated by commas."""
HINTS = "landlord_hints"
"""NOTIFY channel; the payload is an execution that is said to have ended: id of its tenant, a blank, its own."""

TENANT = Tenant.__struct_fields__
EXECUTION = Execution.__struct_fields__
_FIXED = {"execution_id", "tenant_id", "incarnation", "action", "n", "source", "created_at"}
"""What an update of an execution leaves alone."""


def _names(columns: tuple[str, ...], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{column}" for column in columns)


def _read(columns: tuple[str, ...], prefix: str) -> str:
    """The columns as the model has them: a UUID is text."""
    return ", ".join(f"{prefix}{column}{'::text' if column == 'incarnation' else ''}" for column in columns)


_CHANGING = tuple(column for column in EXECUTION if column not in _FIXED)
_UPDATE_EXECUTION = f"""
    update executions e
    set ({_names(_CHANGING)}) = ({_names(_CHANGING, "x.")})
    from changed_executions x
    where e.execution_id = x.execution_id"""  # noqa: S608 - built from our own column names

COMMIT = Statement(
    f"""
with changes as (
    select c.ordinality as i, c.value as change, (c.value ->> 'expected')::bigint as expected
    from jsonb_array_elements(cast(:changes as jsonb)) with ordinality c
),
rows as materialized (
    select changes.i, changes.expected, r.*
    from changes, lateral jsonb_populate_record(null::tenants, changes.change -> 'tenant') r
),
inserted as (
    insert into tenants ({_names(TENANT)})
    select {_names(TENANT)} from rows where expected is null order by id
    on conflict (id) do nothing
    returning id
),
locked as materialized (  -- in one order for everybody, so that two processes cannot wait in a circle
    select t.id, t.revision from tenants t join rows using (id)
    where rows.expected is not null order by t.id for no key update of t
),
updated as (
    update tenants t set ({_names(TENANT)}) = ({_names(TENANT, "rows.")})
    from rows join locked using (id)
    where t.id = rows.id and locked.revision = rows.expected
    returning t.id
),
applied as materialized (select id from inserted union all select id from updated),
done as materialized (
    select rows.i, rows.id, changes.change from rows join applied using (id) join changes using (i)
),
changed_executions as materialized (
    select e.value -> 'added' = 'true' as added, x.*
    from done, lateral jsonb_array_elements(done.change -> 'executions') e,
        lateral jsonb_populate_record(null::executions, e.value) x
),
-- One open run and one waiting run a tenant: ends come before sends, sends before inserts. Each reads the one before,
-- because Postgres promises no order among statements of one WITH.
closed as ({_UPDATE_EXECUTION} and x.ended_at is not null returning 1),
sent as ({_UPDATE_EXECUTION} and x.ended_at is null and (select count(*) from closed) >= 0 returning 1),
added as (
    insert into executions ({_names(EXECUTION)})
    select {_names(EXECUTION)} from changed_executions where added and (select count(*) from sent) >= 0
),
audited as (
    insert into audit (change_id, tenant_id, incarnation, at, who, door, event, from_status, to_status, why,
        generation, execution_id)
    select a.change_id, a.tenant_id, a.incarnation, a.at, a.who, a.door, a.event, a.from_status, a.to_status, a.why,
        a.generation, a.execution_id
    from done, lateral jsonb_populate_record(null::audit, done.change -> 'audit') a
    where done.change -> 'audit' <> 'null'
),
keyed as (
    insert into idempotency_keys (caller, method, path, key, body_digest, change_id, execution_id, created_at)
    select k.caller, k.method, k.path, k.key, k.body_digest, (done.change -> 'audit' ->> 'change_id')::uuid,
        k.execution_id, now()
    from done, lateral jsonb_populate_record(null::idempotency_keys, done.change -> 'key') k
    where done.change -> 'key' <> 'null'
),
notified as materialized (
    select pg_notify('{CHANNEL}', string_agg(id, ',')) from done having count(*) > 0
)
select rows.i, done.i is not null as applied, (select count(*) from notified) as notified
from rows left join done using (i) order by rows.i
"""  # noqa: S608 - built from our own column names
)

_SNAPSHOT = f"now(), {_read(TENANT, 't.')}, {_read(EXECUTION, 'e.')}"

LOAD = Statement(
    f"""
select w.id, {_SNAPSHOT}, p.generation, p.version, p.counters
from jsonb_array_elements_text(cast(:ids as jsonb)) as w(id)  -- cheaper for psycopg than an array of texts
left join tenants t on t.id = w.id
left join executions e on e.tenant_id = t.id and (e.ended_at is null or e.execution_id = t.head)
left join purged_tenants p on p.id = w.id
""",  # noqa: S608 - built from our own column names
    positional=True,
)
"""A row for each execution of a tenant (one if it has none)."""

_PAGE = f"""
select t.id, {_SNAPSHOT}, null, null, null
from tenants t left join lateral (  -- with a limit it stays a look-up for each row, and never a walk through all
    select * from executions where execution_id = t.head and ended_at is null limit 1
) e on true
where {{conditions}}
order by t.id
limit :limit
"""  # noqa: S608 - built from our own column names


@cache
def page(*, status: bool, compute_provider: bool, labels: bool, include_deleted: bool, after: bool) -> Statement:
    """A page of tenants in the order of their ids, for the filters that are given."""
    return Statement(_PAGE.format(conditions=_conditions(locals())), positional=True)


@cache
def count(*, status: bool, compute_provider: bool, labels: bool, include_deleted: bool) -> Statement:
    return Statement(f"select count(*) from tenants t where {_conditions(locals())}")  # noqa: S608 - our own conditions


def _conditions(given: dict[str, bool]) -> str:
    conditions = {
        "status": "t.status = :status",
        "compute_provider": "t.compute_provider = :compute_provider",
        "labels": "t.labels @> cast(:labels as jsonb)",
        "after": "t.id > :after",
    }
    chosen = [condition for name, condition in conditions.items() if given.get(name)]
    if not given["include_deleted"]:
        chosen.append("t.status <> 'deleted'")
    return " and ".join(chosen) or "true"


CLAIM = Statement(
    """
update tenants set next_check_at = now() + make_interval(secs => :lease)
where id in (
    select id from tenants where next_check_at <= now() order by next_check_at limit :limit for update skip locked
)
returning id
"""
)
"""Writes ``next_check_at`` alone, not the revision: whoever decides meanwhile is not disturbed."""

LOOK_AT = Statement(
    """
with locked as materialized (  -- in the order in which COMMIT does it
    select t.id, w.seconds
    from tenants t join jsonb_to_recordset(cast(:items as jsonb)) as w(id text, revision bigint, seconds float8)
        on t.id = w.id and t.revision = w.revision
    order by t.id for no key update of t
)
update tenants t set next_check_at = now() + make_interval(secs => locked.seconds)
from locked where t.id = locked.id
"""
)
"""Null seconds: nobody has to look."""

WAKE = Statement(
    """
with locked as materialized (
    select id from tenants where next_check_at > now() order by id for no key update
)
update tenants t set next_check_at = now() from locked where t.id = locked.id
"""
)

OWNERS = Statement("select distinct tenant_id from executions where execution_id = any(cast(:ids as text[]))")

HINT = Statement(
    f"""
select e.execution_id,
    case when e.sent_at is not null and e.ended_at is null
    then pg_notify('{HINTS}', e.tenant_id || ' ' || e.execution_id) end
from executions e where e.execution_id = any(cast(:ids as text[]))
"""  # noqa: S608 - built from our own channel's name
)
"""Of executions not known to have ended, whoever listens is told. Answers which there are."""

EXECUTIONS = Statement(
    f"""
select seq, {_read(EXECUTION, "")} from executions
where tenant_id = :id and seq < :before order by seq desc limit :limit
"""  # noqa: S608 - built from our own column names
)
EXECUTION_BY_ID = Statement(
    f"select {_read(EXECUTION, '')} from executions where execution_id = :id"  # noqa: S608
)

AUDIT = Statement(
    """
select seq, row_to_json(a) as audit from audit a
where tenant_id = :id and seq < :before order by seq desc limit :limit
"""
)

APPLIED = Statement("select 1 from audit where change_id = cast(:change_id as uuid)")

KEY = Statement(
    """
select body_digest, execution_id from idempotency_keys
where caller = :caller and method = :method and path = :path and key = :key
"""
)

PURGE_TOMBSTONES = Statement(
    """
with gone as (
    delete from tenants where id in (
        select id from tenants where status = 'deleted' and deleted_at < now() - make_interval(secs => :older)
        limit :most for update skip locked
    )
    returning id, generation, version, counters
), kept as (
    insert into purged_tenants (id, generation, version, counters) select id, generation, version, counters from gone
    on conflict (id) do update
    set generation = excluded.generation, version = excluded.version, counters = excluded.counters
)
select count(*) as gone from gone
"""
)
PURGE_KEYS = Statement(
    """
with gone as (
    delete from idempotency_keys where ctid = any(array(
        select ctid from idempotency_keys where created_at < now() - make_interval(secs => :older)
        limit :most for update skip locked
    ))
    returning 1
)
select count(*) as gone from gone
"""
)

IN_FLIGHT = Statement(
    """
select status, count(*) as tenants,
    extract(epoch from now() - min(updated_at) filter (
        where status not in ('ready', 'deleted', 'failed') and not (paused and next_check_at is null)
    )) as oldest
from tenants group by status
"""
)
"""What is paused with nothing under way waits for its user."""

RESOURCES = Statement(
    """
select id, status, namespace, resource_uid, detached, revision from tenants
where id > :after order by id limit :limit
"""
)
"""For the operator's resync: every row, tombstones too, by pages."""
