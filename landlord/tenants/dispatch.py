"""Asking the engine for what has been committed: start a run, or end one. Used by whoever is first to see the need."""

from __future__ import annotations

import contextlib

from landlord.tenants import runs
from landlord.tenants.model import Execution
from landlord.workflow.client import WorkflowClient
from landlord.workflow.provider import ExecutionNotFound, ProviderUnavailable


async def trigger(client: WorkflowClient, execution: Execution) -> bool:
    """Start the run from its frozen bytes; whether the run under this id is ours.

    Harmless to repeat. Raises ``ProviderUnavailable`` (``TriggerTimeout`` when the outcome is unknown) and
    ``InvalidRequest``.
    """
    _ask_its_own(client, execution)
    result = await client.trigger(runs.request(execution))
    return result.created or result.digest is None or result.digest == execution.digest


async def cancel(client: WorkflowClient, execution: Execution, *, force: bool = False) -> bool:
    """Ask for the end of a run whose wish to end is committed; whether the run under this id is ours.

    A run that the engine does not know is started and then cancelled: a trigger that is still on its way would start
    it later, behind our back. One that was not seen yet is started in any case: only that tells whose run is there.
    Raises as :func:`trigger` does.
    """
    _ask_its_own(client, execution)
    reason = execution.cancel_reason or "cancelled"
    if execution.seen:
        with contextlib.suppress(ExecutionNotFound):
            await client.cancel(execution.execution_id, reason=reason, force=force)
            return True
    ours = await trigger(client, execution)
    if ours:
        await client.cancel(execution.execution_id, reason=reason, force=force)
    return ours


def _ask_its_own(client: WorkflowClient, execution: Execution) -> None:
    """Another engine knows nothing of the run and would start it a second time."""
    if execution.provider != client.name:
        raise ProviderUnavailable(
            f"{execution.execution_id} runs on {execution.provider}, this installation is configured for {client.name}"
        )
