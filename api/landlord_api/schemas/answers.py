"""What answers hold. Answers are written by :mod:`landlord_api.records`; a test holds them against these."""

from __future__ import annotations

from marshmallow import RAISE, Schema, fields, validate

from landlord.tenants.model import Action, DeletionPolicy, Door, Stalled, Status
from landlord.workflow.provider import ExecutionState

_FREE = {"additionalProperties": True}


class Answer(Schema):
    class Meta:
        unknown = RAISE


class FailureSchema(Answer):
    """Why a run, or its last try, failed."""

    code = fields.String(required=True)
    message = fields.String(required=True)
    permanent = fields.Boolean(required=True, metadata={"description": "Trying the same again cannot help."})
    step = fields.String(required=True, allow_none=True)


class WorkflowSchema(Answer):
    """The run in charge, as Landlord has last seen it."""

    action = fields.String(required=True, validate=validate.OneOf([*Action]))
    state = fields.String(required=True, validate=validate.OneOf([*ExecutionState]))
    generation = fields.Integer(required=True)
    attempt = fields.Integer(required=True, metadata={"description": "Of this action for this generation, from 1."})
    retry_count = fields.Integer(
        required=True, metadata={"description": "Tries before this one: Landlord's and the engine's own."}
    )
    last_error = fields.Nested(
        FailureSchema,
        required=True,
        allow_none=True,
        metadata={"description": "Of this very run; why the one before it failed is the record's `status_message`."},
    )
    started_at = fields.DateTime(required=True, allow_none=True)


class TenantSchema(Answer):
    """The record of a tenant."""

    id = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf([*Status]))
    status_message = fields.String(required=True)
    stalled = fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf([*Stalled]),
        metadata={"description": "Why the tenant makes no progress by itself; null while it does."},
    )
    compute_provider = fields.String(required=True)
    compute_config = fields.Dict(required=True, metadata={"description": "What is wanted.", **_FREE})
    observed_config = fields.Dict(
        required=True,
        allow_none=True,
        metadata={
            "description": "What the last successful run reported: resources, endpoints, health, configuration.",
            **_FREE,
        },
    )
    workflow_execution_id = fields.String(
        required=True, allow_none=True, metadata={"description": "The run in charge; null when there is none."}
    )
    workflow = fields.Nested(WorkflowSchema, required=True, allow_none=True)
    labels = fields.Dict(keys=fields.String(), values=fields.String(), required=True)
    annotations = fields.Dict(keys=fields.String(), values=fields.String(), required=True)
    paused = fields.Boolean(required=True)
    deletion_policy = fields.String(required=True, validate=validate.OneOf([*DeletionPolicy]))
    generation = fields.Integer(required=True, metadata={"description": "Counts changes of the spec."})
    observed_generation = fields.Integer(
        required=True, allow_none=True, metadata={"description": "The generation of the last run that succeeded."}
    )
    created_at = fields.DateTime(required=True)
    updated_at = fields.DateTime(required=True)
    deleted_at = fields.DateTime(required=True, allow_none=True)


class TenantListSchema(Answer):
    tenants = fields.List(fields.Nested(TenantSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True, metadata={"description": "Null on the last page."})
    total = fields.Integer(metadata={"description": "Only with `count=true`."})


class SpecSchema(Answer):
    """What a run was sent with, defaults filled in."""

    compute_provider = fields.String(required=True)
    compute_config = fields.Dict(required=True, metadata=_FREE)


class ExecutionFailureSchema(FailureSchema):
    details = fields.Dict(required=True, metadata={"description": "For programs.", **_FREE})


class ExecutionSchema(Answer):
    """One run of an action."""

    execution_id = fields.String(required=True)
    tenant_id = fields.String(required=True)
    action = fields.String(required=True, validate=validate.OneOf([*Action]))
    n = fields.Integer(required=True, metadata={"description": "Counts the runs of this action for this tenant."})
    generation = fields.Integer(required=True)
    spec = fields.Nested(SpecSchema, required=True, allow_none=True, metadata={"description": "Null until it is sent."})
    trigger_source = fields.String(required=True, validate=validate.OneOf([*Door]))
    provider = fields.String(required=True, metadata={"description": "The workflow provider."})
    state = fields.String(required=True, validate=validate.OneOf([*ExecutionState]))
    attempt = fields.Integer(required=True, metadata={"description": "Of this action for this generation, from 1."})
    engine_attempt = fields.Integer(required=True, metadata={"description": "Tries the engine itself has made."})
    error = fields.Nested(ExecutionFailureSchema, required=True, allow_none=True)
    output = fields.Dict(required=True, allow_none=True, metadata=_FREE)
    created_at = fields.DateTime(required=True)
    sent_at = fields.DateTime(required=True, allow_none=True)
    deadline = fields.DateTime(required=True, allow_none=True)
    cancel_requested_at = fields.DateTime(required=True, allow_none=True)
    ended_at = fields.DateTime(required=True, allow_none=True)


class ExecutionListSchema(Answer):
    executions = fields.List(fields.Nested(ExecutionSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class CallbackSchema(Answer):
    execution_id = fields.String(required=True)


class EventSchema(Answer):
    """One line of the audit trail."""

    id = fields.String(required=True)
    at = fields.DateTime(required=True)
    who = fields.String(
        required=True,
        metadata={
            "description": "By door: `api`, the name of the token, or `anonymous`; `kubernetes`, the resource as "
            "`namespace/name`; `controller`, `landlord`."
        },
    )
    door = fields.String(required=True, validate=validate.OneOf([*Door]))
    event = fields.String(required=True)
    from_status = fields.String(required=True, allow_none=True, validate=validate.OneOf([*Status]))
    to_status = fields.String(required=True, validate=validate.OneOf([*Status]))
    why = fields.String(required=True)
    generation = fields.Integer(required=True)
    execution_id = fields.String(required=True, allow_none=True)


class EventListSchema(Answer):
    events = fields.List(fields.Nested(EventSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class ComputeConfigSchema(Answer):
    """What a compute provider takes as ``compute_config``."""

    provider = fields.String(required=True)
    schema = fields.Dict(required=True, metadata={"description": "JSON Schema 2020-12.", **_FREE})
    defaults = fields.Dict(required=True, metadata={"description": "Filled in where nothing is said.", **_FREE})


class CheckSchema(Answer):
    check = fields.String(required=True)
    reason = fields.String(required=True)


class LivenessSchema(Answer):
    status = fields.String(required=True)


class ReadinessSchema(Answer):
    """503 only for database and migrations; what else is away is listed as degraded."""

    status = fields.String(required=True, validate=validate.OneOf(["ok", "degraded", "unavailable"]))
    failed = fields.List(fields.Nested(CheckSchema), required=True)
    degraded = fields.List(fields.Nested(CheckSchema), required=True)
