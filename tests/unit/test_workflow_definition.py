"""The tenant workflow: what each action does with a compute provider, and how its errors come out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from landlord.compute.provider import (
    ComputeError,
    ComputeProvider,
    ComputeSpec,
    ComputeState,
    ComputeStatus,
    ComputeUnavailable,
    Endpoint,
    NewerGeneration,
    Outputs,
    PermanentComputeError,
)
from landlord.workflow import definition
from landlord.workflow.payload import TenantPayload
from landlord.workflow.provider import RunFailed, WorkflowFailure

PAYLOAD = TenantPayload(
    installation="default",
    execution_id="tenant-acme-provision",
    tenant_id="acme",
    incarnation="6f1c",
    generation=3,
    action="provision",
    attempt=1,
    compute_provider="fake",
    desired_config={"image": "nginx", "env": {"PASSWORD": "hunter2"}},
    observed_config=None,
)


def _status(health: str = "healthy", **changes: Any) -> ComputeStatus:
    outputs = Outputs(
        resources={"container": "c1"},
        endpoints=[Endpoint(name="http", protocol="http", address="127.0.0.1", port=80)],
        health=health,
    )
    return ComputeStatus(**{"state": ComputeState.RUNNING, "generation": 3, "outputs": outputs, **changes})


class Fake(ComputeProvider):
    """Answers ``status`` from a list (the last one for ever) and records the calls."""

    name = "fake"

    def __init__(self, *statuses: ComputeStatus | Exception, fails: Mapping[str, BaseException] | None = None) -> None:
        self.statuses = list(statuses) or [_status()]
        self.fails = fails or {}
        self.calls: list[tuple[Any, ...]] = []

    def get(self, name: str, /) -> ComputeProvider:
        if name != self.name:
            raise LookupError(f"unknown compute provider {name!r}; this installation has: fake")
        return self

    async def ready(self) -> None:
        return

    def config_schema(self) -> dict[str, Any]:
        return {"type": "object", "properties": {"image": {"type": "string"}, "env": {"type": "object"}}}

    def config_defaults(self) -> dict[str, Any]:
        return {}

    def _call(self, *call: Any) -> None:
        self.calls.append(call)
        if error := self.fails.get(call[0]):
            raise error

    async def apply(self, spec: ComputeSpec) -> Outputs:
        self._call("apply", spec.tenant_id, spec.generation, spec.attempt, dict(spec.config))
        return Outputs(config=spec.config)

    async def retire(self, tenant_id: str, *, generation: int) -> None:
        self._call("retire", tenant_id, generation)

    async def status(self, tenant_id: str) -> ComputeStatus:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(status, Exception):
            raise status
        return status

    async def destroy(self, tenant_id: str, *, generation: int) -> None:
        self._call("destroy", tenant_id, generation)


class Away(Fake):
    """Cannot be reached by the first so many calls of each kind."""

    def __init__(self, *, calls: int) -> None:
        super().__init__()
        self.refused = dict.fromkeys(("apply", "retire", "destroy"), calls)

    def _call(self, *call: Any) -> None:
        super()._call(*call)
        if self.refused[call[0]]:
            self.refused[call[0]] -= 1
            raise ComputeUnavailable("no engine")


class Steps:
    """An engine's part: runs each step once, and remembers its name."""

    def __init__(self, **done: Any) -> None:
        self.done = done
        self.names: list[str] = []

    async def __call__(self, name: str, action: Callable[[], Awaitable[Any]], /) -> Any:
        self.names.append(name)
        if name not in self.done:
            self.done[name] = await action()
        return self.done[name]


async def _run(payload: TenantPayload, fake: Fake, *, steps: Steps | None = None, timeout: float = 5) -> dict[str, Any]:
    return await definition.run(payload, compute=fake, step=steps or Steps(), health_timeout=timeout)


async def _failure(payload: TenantPayload, fake: Fake, *, timeout: float = 5) -> WorkflowFailure:
    with pytest.raises(RunFailed) as caught:
        await _run(payload, fake, timeout=timeout)
    return caught.value.failure


async def test_plan_lists_places_never_values() -> None:
    observed = {"config": {"image": "nginx:1", "env": {"PASSWORD": "old", "A/B": "1"}}}
    payload = replace(PAYLOAD, action="plan", observed_config=observed)
    planned = await _run(payload, Fake())
    assert planned == {
        "changes": [
            {"path": "/env/A~1B", "kind": "removed"},
            {"path": "/env/PASSWORD", "kind": "changed"},
            {"path": "/image", "kind": "changed"},
        ]
    }


async def test_what_takes_the_place_of_another_kind_is_one_change() -> None:
    observed = {"config": {"image": "nginx", "env": {"A": "1"}, "a": {"b": 1}, "c": 1, "d": True}}
    desired = {"image": "nginx", "env": {"A": "1", "B": "2"}, "a": 1, "c": {"b": 1}, "d": 1}
    planned = await _run(replace(PAYLOAD, action="plan", observed_config=observed, desired_config=desired), Fake())
    assert planned == {
        "changes": [
            {"path": "/a", "kind": "changed"},
            {"path": "/c", "kind": "changed"},
            {"path": "/d", "kind": "changed"},
            {"path": "/env/B", "kind": "added"},
        ]
    }


async def test_plan_of_a_new_tenant() -> None:
    assert await _run(replace(PAYLOAD, action="plan"), Fake()) == {"changes": [{"path": "", "kind": "added"}]}


async def test_plan_refuses_what_the_provider_does_not_take() -> None:
    payload = replace(PAYLOAD, action="plan", desired_config={"image": 7})
    failure = await _failure(payload, Fake())
    assert (failure.code, failure.permanent, failure.step) == ("InvalidConfig", True, "plan")
    assert [fault["path"] for fault in failure.details["faults"]] == ["/image"]


async def test_plan_lists_so_many_faults_and_no_more() -> None:
    class Picky(Fake):
        def config_schema(self) -> dict[str, Any]:
            return {"type": "object", "additionalProperties": {"type": "string"}}

    wrong = {f"key-{number}": number for number in range(3 * definition.MOST_FAULTS)}
    failure = await _failure(replace(PAYLOAD, action="plan", desired_config=wrong), Picky())
    assert len(failure.details["faults"]) == definition.MOST_FAULTS
    assert failure.message.count("key-") == definition.MOST_FAULTS


@pytest.mark.parametrize("action", ["provision", "update"])
async def test_build_applies_waits_for_health_and_retires(action: str) -> None:
    fake = Fake(
        _status(generation=2),
        ComputeStatus(state=ComputeState.STARTING, generation=3),
        ComputeUnavailable("away for a moment"),
        _status(),
    )
    steps = Steps()
    output = await _run(replace(PAYLOAD, action=action, attempt=2), fake, steps=steps)
    assert fake.calls == [("apply", "acme", 3, 2, PAYLOAD.desired_config), ("retire", "acme", 3)]
    assert steps.names == ["apply", "healthy", "retire"]
    assert output["config"] == PAYLOAD.desired_config
    assert output["endpoints"][0]["url"] == "http://127.0.0.1:80"
    assert output["health"] == "healthy"


async def test_steps_that_are_done_are_not_repeated() -> None:
    fake = Fake()
    output = await _run(PAYLOAD, fake, steps=Steps(apply=Outputs(config={"image": "x"}).to_json()))
    assert fake.calls == [("retire", "acme", 3)]
    assert output["config"] == {"image": "x"}


async def test_a_provider_that_cannot_tell_the_generation_is_believed() -> None:
    assert (await _run(PAYLOAD, Fake(_status(generation=None))))["health"] == "healthy"
    await _run(replace(PAYLOAD, action="delete"), Fake(_status(generation=None)))


async def test_health_has_a_time_limit_and_says_why() -> None:
    failure = await _failure(PAYLOAD, Fake(_status("unhealthy", message="exit 1: no config")), timeout=0.3)
    assert (failure.code, failure.permanent, failure.step) == ("HealthTimeout", False, "healthy")
    assert failure.message == "not running and healthy within 0.3 s: exit 1: no config"


async def test_an_older_generation_that_serves_is_not_ours() -> None:
    assert (await _failure(PAYLOAD, Fake(_status(generation=2)), timeout=0.3)).code == "HealthTimeout"


async def test_what_will_not_run_by_itself_fails_at_once() -> None:
    failed = ComputeStatus(state=ComputeState.FAILED, generation=3, message="exited with 127")
    failure = await _failure(PAYLOAD, Fake(failed), timeout=60)
    assert (failure.code, failure.message, failure.permanent) == ("Unhealthy", "exited with 127", False)


async def test_what_no_look_can_change_fails_at_once() -> None:
    failure = await _failure(PAYLOAD, Fake(PermanentComputeError("no such cluster")), timeout=60)
    assert (failure.code, failure.permanent, failure.step) == ("ComputeRefused", True, "healthy")


async def test_an_older_generation_that_failed_is_not_ours() -> None:
    older = ComputeStatus(state=ComputeState.FAILED, generation=2, message="exited with 127")
    assert (await _run(PAYLOAD, Fake(older, _status())))["health"] == "healthy"


async def test_a_provider_that_stays_away_is_told_as_such() -> None:
    failure = await _failure(PAYLOAD, Fake(ComputeUnavailable("no engine")), timeout=0.2)
    assert (failure.code, failure.permanent) == ("ComputeUnavailable", False)


async def test_a_provider_that_is_away_is_waited_for() -> None:
    fake, steps = Away(calls=3), Steps()
    assert (await _run(PAYLOAD, fake, steps=steps))["health"] == "healthy"
    assert [call[0] for call in fake.calls] == ["apply"] * 4 + ["retire"] * 4
    assert steps.names == ["apply", "healthy", "retire"]


async def test_a_delete_waits_for_a_provider_that_is_away() -> None:
    fake = Away(calls=3)
    fake.statuses = [ComputeUnavailable("no engine"), ComputeStatus(state=ComputeState.ABSENT)]
    assert await _run(replace(PAYLOAD, action="delete"), fake) == Outputs().to_json()
    assert fake.calls == [("destroy", "acme", 3)] * 4


@pytest.mark.parametrize("call", ["apply", "retire"])
async def test_a_provider_that_is_away_is_not_waited_for_for_ever(call: str) -> None:
    fake = Fake(fails={call: ComputeUnavailable("no engine")})
    failure = await _failure(PAYLOAD, fake, timeout=0.3)
    assert (failure.code, failure.permanent, failure.step) == ("ComputeUnavailable", False, call)
    assert [made[0] for made in fake.calls].count(call) > 1


@pytest.mark.parametrize(
    ("error", "code", "permanent"),
    [
        (ComputeError("busy"), "ComputeFailed", False),
        (PermanentComputeError("no such image"), "ComputeRefused", True),
        (RuntimeError("password=hunter2"), "InternalError", False),
    ],
)
async def test_errors_of_apply(error: Exception, code: str, permanent: bool) -> None:
    fake = Fake(fails={"apply": error})
    failure = await _failure(PAYLOAD, fake)
    assert (failure.code, failure.permanent, failure.step) == (code, permanent, "apply")
    assert len(fake.calls) == 1
    assert "hunter2" not in failure.message


async def test_what_no_engine_takes_is_replaced_in_a_providers_words() -> None:
    """Half a surrogate pair is what Python makes of bytes that are no UTF-8: in file names, in a program's output."""
    error = PermanentComputeError("cannot read 'f\udcfcr.tf'")
    failure = await _failure(PAYLOAD, Fake(fails={"apply": error}))
    assert (failure.code, failure.permanent) == ("ComputeRefused", True)
    assert orjson.loads(orjson.dumps(failure.to_json()))["message"] == "cannot read 'f?r.tf'"
    status = _status()
    named = replace(status, outputs=replace(status.outputs, resources={"volume": "f\udcfcr"}))
    output = await _run(PAYLOAD, Fake(named))
    assert orjson.loads(orjson.dumps(output))["resources"] == {"volume": "f?r"}
    broken = ComputeStatus(state=ComputeState.FAILED, generation=3, message="it printed: f\udcfcr\x00")
    told = (await _failure(PAYLOAD, Fake(broken))).to_json()
    assert (told["code"], orjson.loads(orjson.dumps(told))["message"]) == ("Unhealthy", "it printed: f?r\ufffd")


async def test_a_provider_that_says_too_much_is_cut_short() -> None:
    """An engine that cannot take an end or an output has the step done over and over."""
    failure = await _failure(PAYLOAD, Fake(fails={"apply": ComputeError("why " * 10_000_000)}))
    assert len(orjson.dumps(failure.to_json())) < 10_000
    status = _status()
    endless = replace(status, outputs=replace(status.outputs, resources={"log": "x" * 10_000_000}))
    failure = await _failure(PAYLOAD, Fake(endless))
    assert (failure.code, failure.step) == ("OutputTooLarge", "healthy")


async def test_a_cancellation_that_nobody_asked_for_is_a_failure() -> None:
    """Of something that the provider waited for. Taken for the run's own, it left engines with a run without end."""
    failure = await _failure(PAYLOAD, Fake(fails={"apply": asyncio.CancelledError()}))
    assert (failure.code, failure.permanent, failure.step) == ("InternalError", False, "apply")
    assert failure.message == "unexpected CancelledError"


@pytest.mark.parametrize(
    "fake",
    [
        Fake(fails={"apply": NewerGeneration(tenant_id="acme", asked=3, existing=9)}),
        Fake(_status(generation=9)),
    ],
)
async def test_a_newer_generation_is_told_with_its_number(fake: Fake) -> None:
    failure = await _failure(PAYLOAD, fake)
    assert (failure.code, failure.permanent) == ("NewerGeneration", True)
    assert WorkflowFailure.from_json(failure.to_json()).details == {"existing_generation": 9}


async def test_delete_destroys_and_verifies() -> None:
    fake = Fake(ComputeStatus(state=ComputeState.ABSENT))
    steps = Steps()
    output = await _run(replace(PAYLOAD, action="delete"), fake, steps=steps)
    assert fake.calls == [("destroy", "acme", 3)]
    assert steps.names == ["destroy", "gone"]
    assert output == Outputs().to_json()


async def test_delete_leaves_a_newer_generation_alone_and_says_so() -> None:
    """It may be a later life's, which an old delete must not end; nor may a tenant be called deleted beside it."""
    fake = Fake(_status(generation=4))
    failure = await _failure(replace(PAYLOAD, action="delete"), fake)
    assert (failure.code, failure.details) == ("NewerGeneration", {"existing_generation": 4})
    assert fake.calls == [("destroy", "acme", 3)]


@pytest.mark.parametrize("generation", [2, 3])
async def test_delete_that_leaves_something_fails(generation: int) -> None:
    fake = Fake(_status(generation=generation))
    assert (await _failure(replace(PAYLOAD, action="delete"), fake)).code == "NotGone"


async def test_unknown_provider_and_action() -> None:
    failure = await _failure(replace(PAYLOAD, compute_provider="ecs"), Fake())
    assert (failure.code, failure.permanent) == ("UnknownComputeProvider", False)
    assert "fake" in failure.message
    failure = await _failure(replace(PAYLOAD, action="explode"), Fake())
    assert (failure.code, failure.permanent) == ("UnknownAction", True)


@pytest.mark.parametrize("fake", [Fake(_status("starting")), Away(calls=1000)], ids=["unhealthy", "away"])
async def test_cancellation_passes_through(fake: Fake) -> None:
    task = asyncio.create_task(_run(PAYLOAD, fake, timeout=60))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
