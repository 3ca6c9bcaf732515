"""A tenant through the Kubernetes door: applied, edited, refused, deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from kubernetes_door.harness import Landlord

from landlord import mirror
from landlord.mirror import FINALIZER
from landlord.tenants.commands import Create, Delete, Patch, Replace
from landlord.tenants.model import DeletionPolicy, Door, Status
from landlord.workflow.providers.mock import Stay, Succeed
from landlord_operator.gate import ClusterGate
from landlord_operator.passes import Passes
from landlord_operator.resync import Resync

pytestmark = pytest.mark.timeout(120)


async def test_apply_becomes_ready(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.kubectl("wait", "--for=condition=Ready", "tenant", landlord.name, "--timeout=10s")
    record, resource = await landlord.record(), await landlord.there()
    assert record.status is Status.READY
    assert record.compute_config == {"size": 1}
    assert resource.finalizers == (FINALIZER,)
    assert resource.spec == mirror.spec(record)
    assert not mirror.is_edit(record, resource)
    assert mirror.mirror_patch(record, resource) is None
    assert (await landlord.audit())[0].door is Door.KUBERNETES


async def test_edit_is_carried_out_and_both_keep_it(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.apply({"size": 2, "extra": {"a": [1, 2.5, 3.0]}})
        await landlord.until_ready()
    record, resource = await landlord.record(), await landlord.there()
    assert record.compute_config == {"size": 2, "extra": {"a": [1, 2.5, 3]}}
    assert (record.generation, record.observed_generation) == (2, 2)
    assert resource.status["recordGeneration"] == 2
    assert mirror.mirror_patch(record, resource) is None


async def test_invalid_edit_shows_why_and_changes_nothing(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"delay_seconds": 0})
        await landlord.until_ready()
        before = await landlord.record()
        await landlord.merge({"spec": {"computeConfig": {"delay_seconds": "long"}}})
        await landlord.until_reason("InvalidSpec")
        resource = await landlord.there()
        message = next(each["message"] for each in resource.status["conditions"] if each["type"] == "Ready")
        assert "spec.computeConfig.delay_seconds" in message
        assert "long" not in message, "values may be secrets"
        assert resource.status["observedGeneration"] == resource.generation, "kstatus: it has been seen"
        assert await landlord.condition("Stalled") == ("True", "InvalidSpec")
        assert (await landlord.record()).generation == before.generation

        # The record goes on by REST; the refused edit stays its user's, and the status says the truth about both.
        await landlord.rest(Replace(compute_config={"delay_seconds": 0, "size": 7}))

        async def told() -> bool:
            found = await landlord.there()
            return found.status["recordGeneration"] == 2 and found.status["phase"] == "ready"

        await landlord.until(told)
        assert (await landlord.there()).spec["computeConfig"] == {"delay_seconds": "long"}
        assert await landlord.condition() == ("False", "InvalidSpec")

        await landlord.merge({"spec": {"computeConfig": {"delay_seconds": 0, "size": 8}}})
        await landlord.until_ready()
    assert (await landlord.record()).compute_config == {"delay_seconds": 0, "size": 8}


async def test_invalid_tenant_stores_nothing_and_is_deleted_freely(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"delay_seconds": -1})
        await landlord.until_reason("InvalidSpec")
        assert await landlord.row() is None
        assert not (await landlord.there()).held, "nothing was accepted, so nothing has to be deleted"
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=10s")
        assert await landlord.row() is None


async def test_deleted_after_a_replacement_that_was_refused(landlord: Landlord) -> None:
    """``kubectl replace`` takes our finalizer and annotations away; deleting means deleting all the same."""
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.kubectl("replace", "-f", "-", stdin=landlord.manifest({"delay_seconds": "long"}))
        await landlord.until_reason("InvalidSpec")
        resource = await landlord.there()
        assert (resource.held, resource.spec["computeConfig"]) == (True, {"delay_seconds": "long"})
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")
        assert (await landlord.record()).status is Status.DELETED
        await asyncio.sleep(1)  # for what should not come
        assert await landlord.resource() is None


async def test_unknown_provider_is_refused(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({}, computeProvider="nimbus")
        await landlord.until_reason("InvalidSpec")
    assert await landlord.row() is None


async def test_provider_changed_by_remove_then_set_is_refused(landlord: Landlord) -> None:
    """CEL's ``oldSelf`` cannot see that; the service can."""
    await landlord.apply({"size": 1})
    await landlord.look()
    await landlord.merge({"spec": {"computeProvider": None}})
    await landlord.merge({"spec": {"computeProvider": "docker"}})
    await landlord.look()
    assert await landlord.condition() == ("False", "InvalidSpec")
    assert (await landlord.record()).compute_provider == "mock"
    assert (await landlord.there()).spec["computeProvider"] == "docker", "nobody mirrors over an edit"


async def test_absent_provider_means_the_records(landlord: Landlord) -> None:
    await landlord.apply({"size": 1})
    await landlord.look()
    assert (await landlord.there()).spec["computeProvider"] == "mock"
    generation = (await landlord.record()).generation
    await landlord.merge({"spec": {"computeProvider": None}})
    await landlord.look()
    assert (await landlord.there()).spec["computeProvider"] == "mock"
    assert (await landlord.record()).generation == generation


async def test_rest_tenant_appears_with_few_writes(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.rest(Create(compute_config={"size": 1, "half": 0.5, "whole": 2.0}))
        await landlord.until_ready()
        await asyncio.sleep(1)
        assert landlord.resources.writes["tenants"] <= 3
        assert landlord.resources.writes.total() <= 3
    record, resource = await landlord.record(), await landlord.there()
    assert resource.spec == mirror.spec(record)
    assert (record.namespace, record.resource_uid) == (landlord.namespace, resource.uid)


async def test_slow_rest_tenant_shows_its_way_within_a_second(landlord: Landlord) -> None:
    landlord.engine.script(f"tenant-{landlord.name}-provision", Succeed(after=2))
    async with landlord.operator():
        await landlord.rest(Create(compute_config={}))

        async def shown() -> bool:
            found = await landlord.resource()
            return found is not None and found.status.get("phase") == "provisioning"

        began = time.monotonic()
        await landlord.until(shown)
        assert time.monotonic() - began < 1.8, "a busy machine included"
        assert await landlord.condition("Reconciling") == ("True", "Provisioning")
        assert (await landlord.there()).status["workflow"]["executionId"] == f"tenant-{landlord.name}-provision"
        await landlord.until_ready()
        assert landlord.resources.writes["tenants"] <= 3


async def test_paused_and_policy_are_no_new_generation(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.merge({"spec": {"paused": True, "deletionPolicy": "Retain"}})

        async def paused() -> bool:
            record = await landlord.record()
            return record.paused and record.deletion_policy is DeletionPolicy.RETAIN

        await landlord.until(paused)
        assert (await landlord.record()).generation == 1

        # Kept over REST writes that do not mention them.
        await landlord.rest(Replace(compute_config={"size": 2}))

        async def mirrored() -> bool:
            return (await landlord.there()).spec["computeConfig"] == {"size": 2}

        await landlord.until(mirrored)
        spec = (await landlord.there()).spec
        assert (spec["paused"], spec["deletionPolicy"]) == (True, "Retain")
        await landlord.until_reason("Paused")
        await landlord.rest(Patch(merge={"paused": False}))
        await landlord.until_ready()
    assert (await landlord.there()).spec["paused"] is False


async def test_delete_with_kubectl_leaves_nothing(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")
        assert (await landlord.record()).status is Status.DELETED
        assert await landlord.resource() is None


async def test_delete_runs_before_the_resource_goes(landlord: Landlord) -> None:
    landlord.engine.script(f"tenant-{landlord.name}-delete", Stay())
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
        await landlord.until_reason("Deleting")
        resource = await landlord.there()
        assert resource.held
        assert resource.status["phase"] == "deleting"
        landlord.engine.finish(f"tenant-{landlord.name}-delete")
        await landlord.until_gone()


async def test_delete_while_provisioning(landlord: Landlord) -> None:
    landlord.engine.script(f"tenant-{landlord.name}-provision", Stay())
    async with landlord.operator():
        await landlord.apply({"size": 1})

        async def provisioning() -> bool:
            return (await landlord.row()) is not None and (await landlord.record()).status is Status.PROVISIONING

        await landlord.until(provisioning)
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")
    assert (await landlord.record()).status is Status.DELETED


async def test_delete_by_rest_removes_the_resource_whatever_its_spec(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1}, deletionPolicy="Retain")
        await landlord.until_ready()
        await landlord.rest(Delete())
        await landlord.until_gone()
    assert (await landlord.record()).status is Status.DELETED


async def test_edit_while_deleting_is_refused(landlord: Landlord) -> None:
    landlord.engine.script(f"tenant-{landlord.name}-delete", Stay())
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.rest(Delete())
        await landlord.merge({"spec": {"computeConfig": {"size": 2}}})
        await landlord.until_reason("Deleting")

        async def seen() -> bool:
            resource = await landlord.there()
            return resource.status["observedGeneration"] == resource.generation

        await landlord.until(seen)
        assert (await landlord.record()).compute_config == {"size": 1}
        landlord.engine.finish(f"tenant-{landlord.name}-delete")
        await landlord.until_gone()


async def test_new_life_after_a_delete(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        first = await landlord.record()
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")
        await landlord.apply({"size": 2}, where=landlord.other)
        await landlord.until_ready(where=landlord.other)
    second = await landlord.record()
    assert second.incarnation != first.incarnation
    assert second.generation > first.generation
    assert second.namespace == landlord.other, "a deleted row takes no name, in any namespace"


async def test_trigger_failure_is_recorded_and_shown(landlord: Landlord) -> None:
    landlord.engine.unavailable()
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_reason("TriggerFailed")
        assert (await landlord.record()).status is Status.PLANNING
        landlord.engine.restore()
        await landlord.until_ready()


async def test_put_racing_apply_is_one_order_with_both_in_history(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 0})
        await landlord.until_ready()
        for round_ in range(1, 6):
            applied = landlord.apply({"kubectl": round_})
            put = landlord.rest(Replace(compute_config={"rest": round_}))
            await asyncio.gather(applied, put)
        await landlord.until_ready()
        await asyncio.sleep(1)
        record, resource = await landlord.record(), await landlord.there()
        assert mirror.mirror_patch(record, resource) is None
        writes, generation = landlord.resources.writes.total(), resource.generation
        await asyncio.sleep(1.5)
        assert landlord.resources.writes.total() == writes, "no flapping"
        assert (await landlord.there()).generation == generation
    changes = [each for each in await landlord.audit() if each.who != "landlord"]
    doors = [each.door for each in changes]
    assert doors.count(Door.API) == 5
    # What kubectl wrote may have been written over before the operator saw it, by kubectl alone.
    assert doors.count(Door.KUBERNETES) == 6
    assert record.generation == 11


async def test_events_tell_transitions_only(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.merge({"spec": {"computeConfig": {"delay_seconds": "x"}}})
        await landlord.until_reason("InvalidSpec")

        told_of = "{.type} {.reason} {.involvedObject.kind} {.involvedObject.name} {.involvedObject.uid}"
        listed = f'jsonpath={{range .items[*]}}{told_of}{{"\\n"}}{{end}}'

        async def told() -> list[str]:
            return sorted((await landlord.kubectl("get", "events", "-o", listed)).splitlines())

        async def both() -> bool:
            return len(await told()) >= 2

        await landlord.until(both)
        await asyncio.sleep(0.5)  # for what should not come
        whom = f"Tenant {landlord.name} {(await landlord.there()).uid}"
        assert await told() == [f"Normal Ready {whom}", f"Warning InvalidSpec {whom}"]


@asynccontextmanager
async def unwatched(landlord: Landlord) -> AsyncIterator[tuple[Passes, Resync]]:
    """An operator that neither watch nor NOTIFY tells anything."""

    async def returned() -> None:
        pytest.fail("it was never away")

    gate = ClusterGate(landlord.resources, installation="default", returned=returned)
    repository = landlord.installation.repository
    passes = Passes(repository=repository, sync=landlord.sync(), gate=gate)
    resync = Resync(repository=repository, resources=landlord.resources, passes=passes, gate=gate, interval=300)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(part.run()) for part in (gate, passes, resync)]
        yield passes, resync
        for each in running:
            each.cancel()


async def test_what_is_over_is_forgotten(landlord: Landlord) -> None:
    """Or an operator would remember every tenant there ever was."""
    async with unwatched(landlord) as (passes, resync):
        await landlord.rest(Create(compute_config={}))
        await landlord.reconcile()

        async def remembered() -> bool:
            passes.changed([landlord.name])
            return passes.is_left(landlord.name, revision=(await landlord.record()).revision)

        await landlord.until(remembered)
        await landlord.rest(Delete())
        await landlord.reconcile()
        await landlord.until(remembered)
        assert await landlord.resource() is None
        revision = (await landlord.record()).revision
        resync.soon()

        async def forgotten() -> bool:
            return not passes.is_left(landlord.name, revision=revision)

        await landlord.until(forgotten)


async def test_resync_repairs_what_watch_and_notify_have_missed(landlord: Landlord) -> None:
    async with unwatched(landlord) as (passes, resync):
        await landlord.apply({"size": 1})
        resync.soon()

        async def taken() -> bool:
            return await landlord.row() is not None

        await landlord.until(taken)
        await landlord.reconcile()
        resync.soon()
        await landlord.until_ready()

        async def left() -> bool:
            return passes.is_left(landlord.name, revision=(await landlord.record()).revision)

        await landlord.until(left)
        await landlord.vanish()
        resync.soon()

        async def anew() -> bool:
            return await landlord.resource() is not None

        await landlord.until(anew)


async def test_deletion_missed_while_the_operator_was_away(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    async with landlord.operator():
        await landlord.until_gone()
        assert (await landlord.record()).status is Status.DELETED
    # And one that vanished altogether.
    await landlord.rest(Create(compute_config={}))
    await landlord.reconcile()
    async with landlord.operator():
        await landlord.until_ready()
    await landlord.vanish()
    async with landlord.operator():
        await landlord.until_ready()


async def test_rest_delete_while_the_operator_was_away(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
    await landlord.rest(Delete())
    await landlord.reconcile()
    assert (await landlord.record()).status is Status.DELETED
    async with landlord.operator():
        await landlord.until_gone()
