"""Edits are taken once, whoever reads them and whenever somebody crashes; and what follows a restored store."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from kubernetes_door.harness import Landlord
from kubernetes_door.test_ownership import ready

from landlord import mirror
from landlord.database.statement import Statement
from landlord.kubernetes import Conflict
from landlord.mirror import FINALIZER
from landlord.tenants.commands import Create, Delete, Edit, Replace, Request
from landlord.tenants.model import Door, Stalled, Status
from landlord.tenants.service import Answer

pytestmark = pytest.mark.timeout(120)


async def edits(landlord: Landlord) -> int:
    return len([each for each in await landlord.audit() if each.door is Door.KUBERNETES])


def edit(config: dict[str, Any], resource: mirror.Resource) -> Edit:
    return Edit(identity=resource.identity, compute_config=config, recorded_generation=resource.recorded_generation)


async def backup(landlord: Landlord) -> str:
    """The tenant with its executions, as JSON."""
    statement = Statement(
        """select json_build_object('tenant', row_to_json(t), 'executions',
               (select json_agg(e) from executions e where e.tenant_id = t.id))::text as saved
           from tenants t where id = :id"""
    )
    [row] = await landlord.installation.database.execute(statement, id=landlord.name)
    return str(row.saved)


async def lose(landlord: Landlord) -> None:
    await landlord.sql("delete from tenants where id = :id")
    await landlord.sql("delete from executions where tenant_id = :id")


async def restore(landlord: Landlord, old: str) -> None:
    await lose(landlord)
    await landlord.sql(
        "insert into tenants select r.* from jsonb_populate_record(null::tenants, cast(:old as jsonb) -> 'tenant') r",
        old=old,
    )
    await landlord.sql(
        """insert into executions overriding system value
           select r.* from jsonb_populate_recordset(null::executions, cast(:old as jsonb) -> 'executions') r""",
        old=old,
    )


async def test_two_operators_reading_the_same_edit(landlord: Landlord) -> None:
    await ready(landlord)
    await landlord.merge({"spec": {"computeConfig": {"size": 2}}})
    await asyncio.gather(*(landlord.look(sync=landlord.sync()) for _ in range(4)))
    assert await edits(landlord) == 2, "the create and the one edit"
    assert (await landlord.record()).generation == 2


async def test_mirror_that_another_makes_meanwhile_is_the_one(
    landlord: Landlord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another operator, or the API."""
    create = landlord.resources.create

    async def second(namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        await create(namespace, body)
        return await create(namespace, body)

    monkeypatch.setattr(landlord.resources, "create", second)
    await landlord.rest(Create(compute_config={"size": 1}))
    await landlord.reconcile()
    await landlord.look()
    assert await landlord.condition() == ("True", "Ready")
    assert (await landlord.record()).resource_uid == (await landlord.there()).uid


async def test_tenant_that_another_operator_deletes_meanwhile_gets_no_mirror(
    landlord: Landlord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row was read before, its resource afterwards."""
    await ready(landlord)
    get = landlord.resources.get

    async def late(namespace: str, name: str) -> dict[str, Any]:
        monkeypatch.setattr(landlord.resources, "get", get)
        await landlord.rest(Delete())
        await landlord.reconcile()
        await landlord.look()
        return await get(namespace, name)

    monkeypatch.setattr(landlord.resources, "get", late)
    made = landlord.resources.writes.total()
    await landlord.look()
    assert await landlord.resource() is None
    assert landlord.resources.writes.total() == made + 2, "the resource was deleted and released; none was made"


async def test_slow_operator_does_not_write_over_what_came_after(landlord: Landlord) -> None:
    """It has read row and edit; another ingests the edit; REST changes the record; then it goes on."""
    await ready(landlord)
    await landlord.merge({"spec": {"computeConfig": {"size": 2}}})
    row, resource = await landlord.record(), await landlord.there()
    await landlord.look()
    await landlord.rest(Replace(compute_config={"size": 3}))
    await landlord.sides().submit(row, resource, edit({"size": 2}, resource))
    assert (await landlord.record()).compute_config == {"size": 3}
    assert await edits(landlord) == 2


async def test_edit_read_before_a_later_one_was_taken_is_not_taken_over_it(
    landlord: Landlord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is read before the resource and after it, and has to stand still meanwhile."""
    await ready(landlord)
    await landlord.merge({"spec": {"computeConfig": {"size": 2}}})
    get = landlord.resources.get

    async def late(namespace: str, name: str) -> dict[str, Any]:
        monkeypatch.setattr(landlord.resources, "get", get)
        found = await get(namespace, name)
        await landlord.look()
        await landlord.merge({"spec": {"computeConfig": {"size": 3}}})
        await landlord.look()
        return found

    monkeypatch.setattr(landlord.resources, "get", late)
    await landlord.look()
    assert (await landlord.record()).compute_config == {"size": 3}
    assert await edits(landlord) == 3, "the create and two edits"
    assert (await landlord.there()).spec["computeConfig"] == {"size": 3}


async def test_crash_between_ingest_and_stamp(landlord: Landlord) -> None:
    await ready(landlord)
    await landlord.merge({"spec": {"computeConfig": {"size": 2}}})
    row, resource = await landlord.record(), await landlord.there()
    await landlord.sides().submit(row, resource, edit({"size": 2}, resource))
    await landlord.rest(Replace(compute_config={"size": 3}))
    await landlord.look()
    assert await edits(landlord) == 2
    assert (await landlord.there()).spec["computeConfig"] == {"size": 3}
    assert (await landlord.record()).generation == 3


async def test_revert_by_the_user_between_ingest_and_stamp(landlord: Landlord) -> None:
    """The spec is again what the stamp describes; the generation is not."""
    await ready(landlord)
    await landlord.merge({"spec": {"computeConfig": {"size": 2}}})
    row, resource = await landlord.record(), await landlord.there()
    await landlord.sides().submit(row, resource, edit({"size": 2}, resource))
    await landlord.kubectl(
        "patch", "tenant", landlord.name, "--type=json", "-p",
        '[{"op": "replace", "path": "/spec/computeConfig", "value": {"size": 1}}]',
    )  # fmt: skip
    await landlord.look()
    record = await landlord.record()
    assert record.compute_config == {"size": 1}
    assert record.generation == 3
    assert await edits(landlord) == 3


async def test_edit_equal_to_the_record_is_only_stamped(landlord: Landlord) -> None:
    await ready(landlord)
    await landlord.merge({"spec": {"computeConfig": {"size": 2}}})
    await landlord.kubectl(
        "patch", "tenant", landlord.name, "--type=json", "-p",
        '[{"op": "replace", "path": "/spec/computeConfig", "value": {"size": 1.0}}]',
    )  # fmt: skip
    await landlord.look()
    record, resource = await landlord.record(), await landlord.there()
    assert (record.generation, await edits(landlord)) == (1, 1)
    assert resource.described
    assert await landlord.condition() == ("True", "Ready")


async def test_postgres_restored_older_stalls_as_record_behind(landlord: Landlord) -> None:
    await ready(landlord)
    old = await backup(landlord)
    for size in (2, 3):
        await landlord.rest(Replace(compute_config={"size": size}))
        await landlord.reconcile()
        await landlord.look()
    await restore(landlord, old)
    await landlord.look()
    record, resource = await landlord.record(), await landlord.there()
    assert record.stalled is Stalled.RECORD_BEHIND
    assert record.generation == 3
    assert resource.spec["computeConfig"] == {"size": 3}, "nothing is mirrored"
    assert await landlord.condition() == ("False", "RecordBehind")
    assert await landlord.condition("Stalled") == ("True", "RecordBehind")
    requests = len(landlord.engine.requests)
    await landlord.reconcile()
    assert len(landlord.engine.requests) == requests, "nothing is run"

    await landlord.rest(Replace(compute_config={"size": 4}))
    record = await landlord.record()
    assert (record.generation, record.stalled) == (4, None)
    await landlord.look()
    assert (await landlord.there()).spec["computeConfig"] == {"size": 4}


async def test_edit_after_a_restored_postgres_clears_it_even_if_equal(landlord: Landlord) -> None:
    await ready(landlord)
    old = await backup(landlord)
    await landlord.rest(Replace(compute_config={"size": 2}))
    await landlord.look()
    await restore(landlord, old)
    await landlord.look()
    assert (await landlord.record()).stalled is Stalled.RECORD_BEHIND
    await landlord.merge({"spec": {"computeConfig": {"size": 1}}})
    await landlord.look()
    record = await landlord.record()
    assert (record.stalled, record.generation) == (None, 3)


async def test_row_lost_living_resource_is_ingested_with_its_generation_and_one(landlord: Landlord) -> None:
    await ready(landlord)
    await landlord.rest(Replace(compute_config={"size": 2}))
    await landlord.reconcile()
    await landlord.look()
    await lose(landlord)
    await landlord.look()
    record, resource = await landlord.record(), await landlord.there()
    assert record.generation == 3
    assert record.compute_config == {"size": 2}
    assert record.status is Status.PLANNING
    assert resource.incarnation == record.incarnation
    assert resource.recorded_generation == 3


async def test_row_lost_terminating_resource_is_deleted(landlord: Landlord) -> None:
    await ready(landlord)
    await lose(landlord)
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    await landlord.look()
    record = await landlord.record()
    assert record.status is Status.DELETING
    assert record.generation == 2
    await landlord.reconcile()
    await landlord.look()
    assert await landlord.resource() is None
    assert (await landlord.record()).status is Status.DELETED


async def test_terminating_resource_that_was_never_accepted_goes(landlord: Landlord) -> None:
    """Our finalizer came with a manifest that was exported elsewhere; what no row can hold must not keep it."""
    manifest = json.loads(landlord.manifest({"size": "\x00"}, computeProvider="nim\x00bus"))
    manifest["metadata"]["finalizers"] = [FINALIZER]
    await landlord.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    await landlord.look()
    assert await landlord.condition() == ("False", "InvalidSpec")
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    await landlord.look()
    assert (await landlord.record()).status is Status.DELETING
    await landlord.reconcile()
    await landlord.look()
    assert await landlord.resource() is None


async def test_row_lost_terminating_but_retained_deletes_nothing(landlord: Landlord) -> None:
    await landlord.apply({"size": 1}, deletionPolicy="Retain")
    await landlord.look()
    await lose(landlord)
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    await landlord.look()
    assert await landlord.resource() is None
    assert await landlord.row() is None


async def test_row_restored_to_an_earlier_life_does_not_delete_the_later_ones_resource(landlord: Landlord) -> None:
    await ready(landlord)
    old = await backup(landlord)
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    await landlord.look()
    await landlord.reconcile()
    await landlord.look()
    await landlord.apply({"size": 2})
    await landlord.look()
    later = await landlord.there()
    await restore(landlord, old)
    await landlord.look()
    resource, record = await landlord.there(), await landlord.record()
    assert resource.uid == later.uid
    assert record.stalled is Stalled.RECORD_BEHIND
    assert record.generation == later.recorded_generation


async def test_finalizer_is_there_before_an_ingest_commits(landlord: Landlord, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash right after the commit leaves nothing whose deletion nobody would see."""
    service, held = landlord.installation.service, []
    submit = service.submit

    async def submitted(request: Request) -> Answer:
        held.append((await landlord.there()).finalizers)
        return await submit(request)

    monkeypatch.setattr(service, "submit", submitted)
    await landlord.apply({"size": 1})
    await landlord.look()
    assert held == [(FINALIZER,)]
    assert (await landlord.record()).status is Status.PLANNING


async def test_stale_patches_are_refused(landlord: Landlord) -> None:
    await ready(landlord)
    stale = await landlord.there()
    await landlord.merge({"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(Conflict):
        await landlord.resources.patch(landlord.namespace, landlord.name, mirror.release_patch(stale))
    assert (await landlord.there()).held


async def test_finalizer_comes_back_while_the_record_is_behind(landlord: Landlord) -> None:
    await ready(landlord)
    old = await backup(landlord)
    await landlord.merge({"spec": {"computeConfig": {"size": 2}}})
    await landlord.look()
    await restore(landlord, old)
    await landlord.look()
    assert (await landlord.record()).stalled is Stalled.RECORD_BEHIND
    await landlord.merge({"metadata": {"finalizers": None}})
    await landlord.look()
    assert (await landlord.there()).held
