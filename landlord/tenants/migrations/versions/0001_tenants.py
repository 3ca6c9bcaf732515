"""Tenants, their executions, the audit trail and idempotency keys."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table tenants (
            id text primary key check (id ~ '^[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?$'),
            incarnation uuid not null,
            status text not null,
            status_message text not null,
            stalled text,
            compute_provider text not null,
            compute_config jsonb not null,
            labels jsonb not null,
            annotations jsonb not null,
            paused boolean not null,
            deletion_policy text not null,
            generation bigint not null,
            version bigint not null,
            observed_generation bigint,
            observed_config jsonb,
            revision bigint not null,
            workflow_execution_id text,
            head text,
            unanswered boolean not null,
            attempts integer not null,
            next_check_at timestamptz,
            counters jsonb not null,
            namespace text,
            resource_uid text,
            resource_generation bigint,
            detached boolean not null,
            created_at timestamptz not null,
            updated_at timestamptz not null,
            deleted_at timestamptz
        ) with (fillfactor = 80);
        create index tenants_due on tenants (next_check_at) where next_check_at is not null;
        create index tenants_living on tenants (id) where status <> 'deleted';
        create index tenants_by_status on tenants (status, id);
        create index tenants_by_provider on tenants (compute_provider, id);
        create index tenants_by_label on tenants using gin (labels jsonb_path_ops);
        create index tenants_deleted on tenants (deleted_at) where status = 'deleted';

        create table purged_tenants (
            id text primary key,
            generation bigint not null,
            version bigint not null,
            counters jsonb not null
        );

        create table executions (
            seq bigint generated always as identity unique,
            execution_id text primary key,
            tenant_id text not null,
            incarnation uuid not null,
            generation bigint not null,
            action text not null,
            n integer not null,
            provider text not null,
            source text not null,
            attempt integer not null,
            not_before timestamptz,
            sent_at timestamptz,
            payload bytea,
            digest text,
            deadline timestamptz,
            cancel_requested_at timestamptz,
            cancel_reason text,
            seen boolean not null,
            state text not null,
            engine_attempt integer not null,
            error jsonb,
            output jsonb,
            created_at timestamptz not null,
            ended_at timestamptz,
            unique (tenant_id, action, n)
        ) with (fillfactor = 80);
        create index executions_of_tenant on executions (tenant_id, seq desc);
        create unique index executions_one_sent on executions (tenant_id)
            where sent_at is not null and ended_at is null;
        create unique index executions_one_waiting on executions (tenant_id)
            where sent_at is null and ended_at is null;

        create table audit (
            seq bigint generated always as identity primary key,
            change_id uuid not null unique,
            tenant_id text not null,
            incarnation uuid not null,
            at timestamptz not null,
            who text not null,
            door text not null,
            event text not null,
            from_status text,
            to_status text not null,
            why text not null,
            generation bigint not null,
            execution_id text
        );
        create index audit_of_tenant on audit (tenant_id, seq desc);

        create table idempotency_keys (
            caller text not null,
            method text not null,
            path text not null,
            key text not null,
            body_digest text not null,
            change_id uuid not null,
            execution_id text,
            created_at timestamptz not null,
            primary key (caller, method, path, key)
        );
        create index idempotency_keys_age on idempotency_keys (created_at);
        """
    )


def downgrade() -> None:
    raise RuntimeError("restore a backup: a downgrade would lose tenants")
