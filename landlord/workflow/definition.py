"""The tenant workflow, written once for every engine.

Each step is named and idempotent: an engine may run it again after a crash, on another worker. Whatever goes wrong
leaves as :class:`~landlord.workflow.provider.RunFailed` from inside its step, so that engines which keep the outcome of
a failed step need to know no exception of the compute interface.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import orjson
import structlog

from landlord import canonical
from landlord.compute import config as compute_config
from landlord.compute.provider import (
    ComputeError,
    ComputeProvider,
    ComputeSpec,
    ComputeState,
    ComputeStatus,
    ComputeUnavailable,
    NewerGeneration,
    Outputs,
    PermanentComputeError,
)
from landlord.workflow import changes
from landlord.workflow.execution import Step, meant
from landlord.workflow.payload import TenantPayload
from landlord.workflow.provider import RunFailed, WorkflowFailure

FIRST_LOOK = 0.1
"""Seconds until a provider is asked a second time; grows by half each time."""
LONGEST_PAUSE = 2.0
"""Seconds until it is asked again, at most."""
LARGEST_OUTPUT = 4_194_304
"""Bytes (JSON) of what a step gives. What an engine cannot take has the step done again and again."""
MOST_FAULTS = 20
"""Faults of a configuration that a failure lists."""

Result = TypeVar("Result")
_log = structlog.get_logger(__name__)


class ComputeProviders(Protocol):
    """Where the workflow finds the provider that a payload names."""

    def get(self, name: str, /) -> ComputeProvider:
        """Raises ``LookupError`` whose message names what there is."""
        ...


async def run(
    payload: TenantPayload, *, compute: ComputeProviders, step: Step, health_timeout: float
) -> dict[str, Any]:
    """Execute one action for one tenant; ``health_timeout`` in seconds. Returns its output (JSON):

    ``plan``: ``{"changes": [{"path", "kind"}]}``; ``provision`` and ``update``: what exists, with the configuration
    that was applied (:class:`~landlord.compute.provider.Outputs`); ``delete``: the same with nothing in it.

    Raises :class:`RunFailed`. Cancellation passes through at once; every step can be taken up again.
    """
    try:
        provider = compute.get(payload.compute_provider)
    except LookupError as error:
        # Not permanent: another worker of this installation may be configured better.
        raise RunFailed(WorkflowFailure(code="UnknownComputeProvider", message=str(error.args[0]))) from None
    actions: dict[str, Callable[[_Context], Awaitable[dict[str, Any]]]] = {
        "plan": _plan,
        "provision": _build,
        "update": _build,
        "delete": _delete,
    }
    if payload.action not in actions:
        raise RunFailed(
            WorkflowFailure(code="UnknownAction", message=f"no such action: {payload.action[:64]}", permanent=True)
        )
    context = _Context(payload=payload, provider=provider, step=step, health_timeout=health_timeout)
    return await actions[payload.action](context)


class _Context:
    """One run: its payload, the provider it drives, and steps that fail in the workflow's own terms."""

    def __init__(self, *, payload: TenantPayload, provider: ComputeProvider, step: Step, health_timeout: float) -> None:
        self.payload = payload
        self.provider = provider
        self.health_timeout = health_timeout
        self._step = step

    async def step(self, name: str, action: Callable[[], Awaitable[Any]]) -> Any:
        async def guarded() -> Any:
            try:
                return _takeable(await action(), step=name)
            except RunFailed:
                raise
            except (Exception, asyncio.CancelledError) as error:
                if meant(error):
                    raise
                if not isinstance(error, ComputeError):
                    _log.exception("step broke off", execution_id=self.payload.execution_id, step=name)
                raise RunFailed(failure_of(error, step=name)) from error

        return await self._step(name, guarded)


def _takeable(output: Any, *, step: str) -> Any:
    """What a step gives, as every engine takes it. Raises ``TypeError`` for what is no JSON."""
    output = canonical.storable(output)
    if (size := len(orjson.dumps(output))) > LARGEST_OUTPUT:
        message = f"the provider's answer has {size} bytes, more than {LARGEST_OUTPUT}"
        raise RunFailed(WorkflowFailure(code="OutputTooLarge", message=message, step=step))
    return output


def failure_of(error: BaseException, *, step: str) -> WorkflowFailure:
    """An exception of a step in terms of the workflow. Texts of unexpected ones are left out: they may hold secrets."""
    if not isinstance(error, ComputeError):
        return WorkflowFailure(code="InternalError", message=f"unexpected {type(error).__name__}", step=step)
    return WorkflowFailure(
        code=error.code,
        message=str(error),
        permanent=isinstance(error, PermanentComputeError),
        step=step,
        details={"existing_generation": error.existing} if isinstance(error, NewerGeneration) else {},
    )


async def _plan(context: _Context) -> dict[str, Any]:
    payload = context.payload

    async def plan() -> dict[str, Any]:
        faults = compute_config.faults(context.provider, payload.desired_config)
        if faults:
            listed = [{"path": fault.path, "message": fault.message} for fault in faults[:MOST_FAULTS]]
            message = "; ".join(f"{fault.path or '/'}: {fault.message}" for fault in faults[:MOST_FAULTS])
            raise RunFailed(
                WorkflowFailure(
                    code="InvalidConfig", message=message, permanent=True, step="plan", details={"faults": listed}
                )
            )
        observed = payload.observed_config
        found = changes.between(None if observed is None else observed.get("config"), payload.desired_config)
        return {"changes": [change.to_json() for change in found]}

    planned: dict[str, Any] = await context.step("plan", plan)
    return planned


async def _build(context: _Context) -> dict[str, Any]:
    payload, provider = context.payload, context.provider

    async def apply() -> dict[str, Any]:
        spec = ComputeSpec(
            tenant_id=payload.tenant_id,
            generation=payload.generation,
            attempt=payload.attempt,
            config=payload.desired_config,
        )
        return (await _patiently(context, lambda: provider.apply(spec))).to_json()

    async def healthy() -> dict[str, Any]:
        return (await _until_serving(context)).to_json()

    async def retire() -> None:
        await _patiently(context, lambda: provider.retire(payload.tenant_id, generation=payload.generation))

    applied = await context.step("apply", apply)
    serving = await context.step("healthy", healthy)
    await context.step("retire", retire)
    # What a provider reports later may not tell the configuration; what it applied is what the next plan compares with.
    return {**serving, "config": applied.get("config") or payload.desired_config}


async def _until_serving(context: _Context) -> Outputs:
    """Look until this generation is running and healthy. A provider that cannot be reached is asked again."""
    ours = context.payload.generation
    patience = _Patience(context.health_timeout)
    while True:
        status: ComputeStatus | None = None
        try:
            status = await context.provider.status(context.payload.tenant_id)
            reason = status.message or f"{status.state.value}, health {status.outputs.health}"
        except PermanentComputeError:
            raise
        except ComputeError as error:
            if patience.spent:
                raise
            reason = str(error)
        if status is not None:
            generation = ours if status.generation is None else status.generation  # null: the provider cannot tell
            if generation > ours:
                raise NewerGeneration(tenant_id=context.payload.tenant_id, asked=ours, existing=generation)
            if generation == ours and status.serving:
                return status.outputs
            if generation == ours and status.state is ComputeState.FAILED:
                raise RunFailed(WorkflowFailure(code="Unhealthy", message=reason, step="healthy"))
        if patience.spent:
            message = f"not running and healthy within {context.health_timeout:g} s: {reason}"
            raise RunFailed(WorkflowFailure(code="HealthTimeout", message=message, step="healthy"))
        await patience.pause()


async def _patiently(context: _Context, call: Callable[[], Awaitable[Result]]) -> Result:
    """What an idempotent call to the provider returns or raises; a provider that is away is asked again.

    For as long as a tenant may take to become healthy: a run that fails counts against the tenant, whose fault it is
    not.
    """
    patience = _Patience(context.health_timeout)
    while True:
        try:
            return await call()
        except ComputeUnavailable:
            if patience.spent:
                raise
        await patience.pause()


class _Patience:
    """For asking again and again: pauses that grow, until so many seconds are spent."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._pause = FIRST_LOOK

    @property
    def spent(self) -> bool:
        return time.monotonic() >= self._deadline

    async def pause(self) -> None:
        await asyncio.sleep(min(self._pause, max(self._deadline - time.monotonic(), 0)))
        self._pause = min(self._pause * 1.5, LONGEST_PAUSE)


async def _delete(context: _Context) -> dict[str, Any]:
    payload, provider = context.payload, context.provider

    async def destroy() -> None:
        await _patiently(context, lambda: provider.destroy(payload.tenant_id, generation=payload.generation))

    async def gone() -> None:
        status = await _patiently(context, lambda: provider.status(payload.tenant_id))
        # A provider that cannot tell the generation is believed: destroy returns when nothing is left.
        if status.state is ComputeState.ABSENT or status.generation is None:
            return
        if status.generation > payload.generation:
            raise NewerGeneration(tenant_id=payload.tenant_id, asked=payload.generation, existing=status.generation)
        message = f"something of the tenant is left: {status.message or status.state.value}"
        raise RunFailed(WorkflowFailure(code="NotGone", message=message, step="gone"))

    await context.step("destroy", destroy)
    await context.step("gone", gone)
    return Outputs().to_json()
