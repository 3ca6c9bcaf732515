"""Every statement of the ``local`` engine.

All take batches, so that concurrent callers share a round trip. Times are the database's alone. Who writes for a run
names its fence, and the fence is compared in the statement that writes, under the row's lock. Batches lock rows in the
order of their ids, so that two of them never wait for each other in a circle.

NOTIFY: workers hear ``INSTALLATION work`` and ``INSTALLATION cancel ID``; everybody else ``INSTALLATION ID ID …`` of
runs that have ended, at most 64 ids in one (a payload may have 8000 bytes).
"""

from __future__ import annotations

from landlord.database.statement import Statement

WORKERS = "landlord_local_workers"
ENDED = "landlord_local_ended"

INSERT = Statement(
    f"""
    with input as (
        select execution_id, decode(payload, 'hex') as payload, digest
        from jsonb_to_recordset(cast(:requests as jsonb)) as i (execution_id text, payload text, digest text)
    ), created as (
        insert into local_executions (installation, execution_id, payload, digest)
        select :installation, execution_id, payload, digest from input order by execution_id
        on conflict do nothing
        returning execution_id
    ), told as (
        select pg_notify('{WORKERS}', :installation || ' work') where exists (select from created)
    )
    select i.execution_id, c.execution_id is not null as created, (select count(*) from told),
           coalesce(case when c.execution_id is null then (
               select e.digest from local_executions e
               where e.installation = :installation and e.execution_id = i.execution_id
           ) end, '') as digest
    from input i
    left join created c on c.execution_id = i.execution_id
    """  # noqa: S608 - only the channel's name is put in
)
"""A run inserted by somebody else while this statement ran is neither created nor visible: its digest comes as ''."""

DIGESTS = Statement(
    """
    select execution_id, digest from local_executions
    where installation = :installation and execution_id = any(cast(:ids as text[]))
    """
)

READ = Statement(
    """
    select execution_id, state, digest, attempts, step, output, failure
    from local_executions
    where installation = :installation and execution_id = any(cast(:ids as text[]))
    """
)

CANCEL = Statement(
    f"""
    with target as (
        select execution_id, state, state = 'pending' or cast(:force as boolean) as ends
        from local_executions
        where installation = :installation and execution_id = :id
        for update
    ), changed as (
        update local_executions e
        set cancel_reason = coalesce(e.cancel_reason, :reason),
            state = case when t.ends then 'cancelled' else e.state end,
            fence = e.fence + t.ends::int,
            due_at = case when not t.ends then e.due_at end,
            ended_at = case when t.ends then now() end,
            failure = case when t.ends then :failure end
        from target t
        where e.installation = :installation and e.execution_id = t.execution_id and t.state in ('pending', 'running')
        returning e.execution_id, t.state, t.ends
    ), told as (
        select pg_notify('{WORKERS}', :installation || ' cancel ' || execution_id) from changed where state = 'running'
        union all
        select pg_notify('{ENDED}', :installation || ' ' || execution_id) from changed where ends
    )
    select (select count(*) from target) as known, (select count(*) from told)
    """  # noqa: S608
)

CLAIM = Statement(
    """
    with due as (
        select installation, execution_id from local_executions
        where installation = :installation and due_at <= now() and not execution_id = any(cast(:held as text[]))
        order by due_at
        limit :most
        for update skip locked
    ), claimed as (
        update local_executions e
        set state = 'running', attempts = attempts + 1, worker = :worker,
            fence = greatest(fence + 1, cast(extract(epoch from clock_timestamp()) * 1000000 as bigint)),
            due_at = now() + make_interval(secs => :lease), started_at = coalesce(started_at, now())
        from due
        where e.installation = due.installation and e.execution_id = due.execution_id
        returning e.execution_id, e.fence, e.attempts, e.payload, e.cancel_reason
    )
    select c.*, (
        select json_object_agg(s.name, s.output) from local_steps s
        where s.installation = :installation and s.execution_id = c.execution_id
    ) as steps
    from claimed c
    """
)
"""Each claim has a fence that no other has: one that the database has lost (in a restore, or in a failover to a standby
that had not got it) may still be in somebody's hands, and must not equal the next."""

_MINE = """
    input as (
        select * from unnest({arrays}) as i ({columns})
    ), mine as (
        select i.*, e.installation from input i
        join local_executions e on e.installation = :installation and e.execution_id = i.execution_id
        where e.fence = i.fence and e.state = 'running'
        order by e.execution_id
        for update of e
    )
"""
"""The runs of a batch that are still the caller's, locked.

With the installation, for the update to join on: a constant there would let a plan walk the installation's every run.
"""


def _mine(**columns: str) -> str:
    """``columns``: name of the parameter (an array) and of the column to its SQL type."""
    types = {"execution_id": "text", "fence": "bigint", **columns}
    arrays = ", ".join(f"cast(:{name} as {kind}[])" for name, kind in types.items())
    return _MINE.format(arrays=arrays, columns=", ".join(types))


RENEW = Statement(
    f"""
    with {_mine()}
    update local_executions e
    set due_at = now() + make_interval(secs => :lease)
    from mine
    where e.installation = mine.installation and e.execution_id = mine.execution_id
    returning e.execution_id, e.cancel_reason
    """  # noqa: S608
)

CHECKPOINT = Statement(
    f"""
    with {_mine(name="text", output="text")}, saved as (
        insert into local_steps (installation, execution_id, name, output)
        select :installation, execution_id, name, output from mine
        on conflict (installation, execution_id, name) do update set output = excluded.output, done_at = now()
    )
    update local_executions e
    set step = mine.name, due_at = now() + make_interval(secs => :lease)
    from mine
    where e.installation = mine.installation and e.execution_id = mine.execution_id
    returning e.execution_id, e.cancel_reason
    """  # noqa: S608
)

FINISH = Statement(
    f"""
    with {_mine(state="text", output="text", failure="text")}, ended as (
        update local_executions e
        set state = mine.state, output = mine.output, failure = mine.failure, due_at = null, ended_at = now()
        from mine
        where e.installation = mine.installation and e.execution_id = mine.execution_id
        returning e.execution_id
    ), told as (
        select pg_notify('{ENDED}', :installation || ' ' || string_agg(execution_id, ' '))
        from (select execution_id, (row_number() over () - 1) / 64 as part from ended) as parts
        group by part
    )
    select execution_id, (select count(*) from told) from ended
    """  # noqa: S608
)

HAND_BACK = Statement(
    f"""
    with {_mine()}, back as (
        update local_executions e
        set state = 'pending', due_at = now(), fence = e.fence + 1, attempts = e.attempts - 1, worker = null
        from mine
        where e.installation = mine.installation and e.execution_id = mine.execution_id
        returning e.execution_id
    )
    select count(*), (select pg_notify('{WORKERS}', :installation || ' work') where exists (select from back)) from back
    """  # noqa: S608
)

PURGE = Statement(
    """
    delete from local_executions
    where installation = :installation and execution_id = any(array(
        select execution_id from local_executions
        where installation = :installation and ended_at < now() - make_interval(secs => :retention)
        order by ended_at
        limit :most
        for update skip locked
    ))
    returning 1
    """
)
