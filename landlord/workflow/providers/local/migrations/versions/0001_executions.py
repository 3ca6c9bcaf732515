"""Executions and the checkpoints of their steps."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        create table local_executions (
            installation text not null,
            execution_id text not null check (length(execution_id) between 1 and 80),
            payload bytea not null,
            digest text not null,
            state text not null default 'pending'
                check (state in ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
            -- When a worker may take it: new work at once, running work once the lease is over; null when ended.
            due_at timestamptz default now(),
            -- Grows with each claim and forced end. Who writes names the fence it was given; an older one is refused.
            fence bigint not null default 0,
            attempts integer not null default 0,
            worker text,
            step text,
            cancel_reason text,
            -- JSON as text: jsonb refuses U+0000, which a container may well print.
            output text,
            failure text,
            created_at timestamptz not null default now(),
            started_at timestamptz,
            ended_at timestamptz,
            -- The id first: every installation here may be the same, and a plan must not walk them all.
            primary key (execution_id, installation),
            check ((due_at is null) = (ended_at is not null))
        )
        """
    )
    op.execute("create index local_executions_due on local_executions (installation, due_at) where due_at is not null")
    op.execute(
        "create index local_executions_ended on local_executions (installation, ended_at) where ended_at is not null"
    )
    op.execute(
        """
        create table local_steps (
            installation text not null,
            execution_id text not null,
            name text not null,
            output text not null,
            done_at timestamptz not null default now(),
            primary key (execution_id, installation, name),
            foreign key (execution_id, installation) references local_executions on delete cascade
        )
        """
    )


def downgrade() -> None:
    op.execute("drop table local_steps")
    op.execute("drop table local_executions")
