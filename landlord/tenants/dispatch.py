"""Asking the engine for what has been committed: start a run, or end one. Used by whoever is first to see the need."""

from __future__ import annotations

from landlord.tenants import runs
from landlord.tenants.model import Execution
from landlord.workflow.client import WorkflowClient
from landlord.workflow.provider import ExecutionNotFound


async def trigger(client: WorkflowClient, execution: Execution) -> bool:
    """Start the run from its frozen bytes; whether the run under this id is ours.

    Harmless to repeat. Raises ``ProviderUnavailable`` (``TriggerTimeout`` when the outcome is unknown) and
    ``InvalidRequest``.
    """
    result = await client.trigger(runs.request(execution))
    return result.created or result.digest is None or result.digest == execution.digest


async def cancel(client: WorkflowClient, execution: Execution, *, force: bool = False) -> None:
    """Ask for the end of a run whose wish to end is committed.

    A run that the engine does not know is started and then cancelled: a trigger that is still on its way would start
    it later, behind our back. Raises as :func:`trigger` does.
    """
    reason = execution.cancel_reason or "cancelled"
    try:
        await client.cancel(execution.execution_id, reason=reason, force=force)
    except ExecutionNotFound:
        if await trigger(client, execution):
            await client.cancel(execution.execution_id, reason=reason, force=force)
