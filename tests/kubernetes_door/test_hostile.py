"""A resource out of all proportion, or an error that nobody has thought of, stops nothing but itself."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import kopf
import pytest
from kubernetes_door.harness import SECONDS, Landlord

from landlord import canonical
from landlord.database.engine import DatabaseUnavailable
from landlord.kubernetes import API_VERSION
from landlord.tenants.model import Snapshot, Status
from landlord_operator.operator import Operator
from landlord_operator.watch import WatchStuck

pytestmark = pytest.mark.timeout(120)

MOST = 9_998
"""Levels of a configuration that the API server keeps: it takes 10,000 in all."""


def nested(levels: int) -> str:
    """A configuration of so many levels, as text: an encoder would not write it."""
    return '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)


async def write(landlord: Landlord, verb: str, *, levels: int) -> None:
    manifest = landlord.manifest().replace('"computeConfig": {}', f'"computeConfig": {nested(levels)}')
    await landlord.kubectl(verb, "-f", "-", stdin=manifest)


async def refused(landlord: Landlord) -> None:
    await landlord.until_reason("InvalidSpec")
    conditions = (await landlord.there()).status["conditions"]
    message = next(each["message"] for each in conditions if each["type"] == "Ready")
    assert message == "spec.computeConfig is nested more than 64 levels deep"


@pytest.mark.parametrize("levels", [canonical.DEEPEST + 1, 1_000, MOST])
async def test_nested_too_deeply_is_refused_and_hides_no_other(landlord: Landlord, levels: int) -> None:
    deep, other = landlord.name, landlord.name + "-other"
    async with landlord.operator():
        await write(landlord, "create", levels=levels)
        await refused(landlord)
        landlord.name = other
        await landlord.apply({"size": 1})
        await landlord.until_ready()
    async with landlord.operator():  # this one meets it in its lists
        await landlord.apply({"size": 2})
        await landlord.until_ready()
        assert (await landlord.record()).compute_config == {"size": 2}
        landlord.name = deep
        await refused(landlord)
        assert await landlord.row() is None
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")


async def test_edit_nested_too_deeply_changes_nothing(landlord: Landlord) -> None:
    async with landlord.operator():
        await write(landlord, "create", levels=canonical.DEEPEST)
        await landlord.until_ready()
        before = await landlord.record()
        await write(landlord, "replace", levels=3_000)
        await refused(landlord)
        record = await landlord.record()
        assert (record.compute_config, record.generation) == (before.compute_config, before.generation)
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")
    assert (await landlord.record()).status is Status.DELETED


async def test_edit_with_a_number_beyond_64_bits_is_refused(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.merge({"spec": {"computeConfig": {"size": 10**20}}})
        await landlord.until_reason("InvalidSpec")
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")
    assert (await landlord.record()).compute_config == {"size": 1}


async def test_fields_that_nobody_manages_are_no_obstacle(landlord: Landlord) -> None:
    """The API server keeps an entry without a manager, if somebody writes one."""
    fields = {"apiVersion": API_VERSION, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.merge({"metadata": {"managedFields": [fields]}})
        there = await landlord.resources.get(landlord.namespace, landlord.name)
        assert "manager" not in there["metadata"]["managedFields"][0]
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")
    assert (await landlord.record()).status is Status.DELETED


@pytest.mark.parametrize("call", ["pages", "served", "record"])
async def test_operator_outlives_an_error_that_nobody_has_thought_of(
    landlord: Landlord, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    raised = []
    works = getattr(landlord.resources, call)

    def broken(*arguments: Any, **named: Any) -> Any:
        if len(raised) == 2:
            return works(*arguments, **named)
        raised.append(call)
        raise RuntimeError(call)

    monkeypatch.setattr("landlord_operator.resync.AGAIN", 0.1)
    monkeypatch.setattr(landlord.resources, call, broken)
    async with landlord.operator():
        for size in range(4):  # so that there are Events
            await landlord.apply({"size": size} if size % 2 else {"delay_seconds": -1})
            await landlord.until_reason("Ready" if size % 2 else "InvalidSpec")

        async def over() -> bool:
            return len(raised) == 2

        await landlord.until(over)
        await landlord.apply({"size": 9})
        await landlord.until_ready()
        assert (await landlord.record()).compute_config == {"size": 9}


@pytest.mark.parametrize("error", [RuntimeError, DatabaseUnavailable])
async def test_a_look_that_fails_is_taken_again_and_delays_no_other(
    landlord: Landlord, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    poisoned, other, broken = landlord.name, landlord.name + "-other", True
    load = landlord.installation.repository.load

    async def loaded(name: str) -> Snapshot:
        if broken and name == poisoned:
            raise error(name)
        return await load(name)

    monkeypatch.setattr(landlord.installation.repository, "load", loaded)
    async with landlord.operator():
        await landlord.apply({"size": 1})
        landlord.name = other
        await landlord.apply({"size": 2})
        await landlord.until_ready()
        landlord.name = poisoned
        assert (await landlord.there()).status == {}
        broken = False
        await landlord.until_ready()


async def test_operator_whose_watch_hangs_ends_to_be_started_anew(
    landlord: Landlord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hangs in a thread cannot be ended, and sees no resource any more."""
    monkeypatch.setattr("landlord_operator.watch.STUCK", 1)
    monkeypatch.setattr("landlord_operator.watch.BEAT", 0.1)
    monkeypatch.setattr("landlord_operator.watch.JOIN", 0.1)
    freed = threading.Event()
    hung = SimpleNamespace(watched=lambda *_, **__: freed.wait())
    monkeypatch.setattr("landlord_operator.handlers.Sighting", hung)
    operator = Operator(installation=landlord.installation, resources=landlord.resources)
    await landlord.apply({"size": 1})
    try:
        async with asyncio.timeout(SECONDS):
            with pytest.raises(ExceptionGroup) as raised:
                await operator.run()
        assert raised.group_contains(WatchStuck)
        assert "has not moved" in str(await operator.checks["watch"]())
    finally:
        freed.set()


async def test_operator_outlives_a_loop_that_was_held_up(landlord: Landlord, monkeypatch: pytest.MonkeyPatch) -> None:
    """By something large, or with the whole process: nothing was asked meanwhile, so nothing was left unanswered."""
    monkeypatch.setattr("landlord_operator.watch.STUCK", 3)
    monkeypatch.setattr("landlord_operator.watch.BEAT", 0.2)
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        time.sleep(3.5)  # noqa: ASYNC251 - it is meant to
        await landlord.apply({"size": 2})
        await landlord.until_ready()
    assert (await landlord.record()).compute_config == {"size": 2}


async def test_watch_that_ends_by_itself_is_begun_again(landlord: Landlord, monkeypatch: pytest.MonkeyPatch) -> None:
    """kopf gives up what it was forbidden, or failed at, for a minute."""
    works, ended = kopf.operator, asyncio.Event()

    async def brief(**arguments: Any) -> None:
        if not ended.is_set():
            ended.set()
            async with asyncio.timeout(0.5):
                await works(**arguments)
        await works(**arguments)

    monkeypatch.setattr(kopf, "operator", brief)
    async with landlord.operator():
        await ended.wait()
        await asyncio.sleep(1)
        await landlord.apply({"size": 1})
        await landlord.until_ready()
    assert (await landlord.record()).status is Status.READY


async def test_nobody_is_missed_while_nobody_watches(landlord: Landlord, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that starts while the API server is away is ready: it reconciles."""
    monkeypatch.setattr("landlord_operator.watch.STUCK", 0)
    operator = Operator(installation=landlord.installation, resources=landlord.resources)
    await asyncio.sleep(0.1)
    assert await operator.checks["watch"]() is None
