"""Repeating requests: by Idempotency-Key, by POST after a 500, all at once."""

from __future__ import annotations

import asyncio
from collections import Counter

from fixtures.rest import Rest, reconciling, serving, unique

from landlord.settings import Settings
from landlord.workflow.providers.mock import MockProvider, Stay, Succeed

CONFIG = {"image": "app:1"}


def key(value: str) -> dict[str, str]:
    return {"Idempotency-Key": value}


async def test_the_same_key_joins_the_first_request(rest: Rest) -> None:
    name, headers = unique(), key(unique())
    body = {"id": name, "compute_config": CONFIG}
    first = await rest.post("/api/tenants", body, headers=headers)
    # The order of keys and the prefix of the path make no other request.
    again = await rest.post("/v1/tenants", dict(reversed(body.items())), headers=headers)
    assert (first.status, again.status) == (202, 202)
    assert again["workflow_execution_id"] == first["workflow_execution_id"]
    assert again["generation"] == 1
    assert again.headers["Location"] == f"/v1/tenants/{name}"
    assert len(await rest.executions(name)) == 1
    without = await rest.post("/api/tenants", body)
    assert (without.status, without["type"]) == (409, "urn:landlord:problem:exists")


async def test_another_body_under_the_same_key(rest: Rest) -> None:
    name, headers = unique(), key(unique())
    assert (await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG}, headers=headers)).status == 202
    for body in ({"id": name, "compute_config": {"image": "app:2"}}, {"id": unique(), "compute_config": CONFIG}):
        reply = await rest.post("/api/tenants", body, headers=headers)
        assert (reply.status, reply.pointers) == (422, {"Idempotency-Key"})


async def test_what_was_refused_is_tried_anew(rest: Rest) -> None:
    name, headers = await rest.ready(), key(unique())
    body = {"id": name, "compute_config": CONFIG}
    assert (await rest.post("/api/tenants", body, headers=headers)).status == 409
    gone = await rest.deleted()
    assert (await rest.post("/api/tenants", {**body, "id": gone}, headers=headers)).status == 202


async def test_keys_belong_to_method_and_path(rest: Rest) -> None:
    headers = key(unique())
    one, other = await rest.ready(), await rest.ready()
    for name in (one, other):
        reply = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG}, headers=headers)
        assert (reply.status, reply["generation"]) == (202, 2)
    assert (await rest.delete(f"/api/tenants/{one}", headers=headers)).status == 202


async def test_a_put_is_done_once(rest: Rest) -> None:
    name, headers = await rest.ready(), key(unique())
    for _ in range(3):
        reply = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG}, headers=headers)
        assert (reply.status, reply["generation"]) == (202, 2)
    rest.mock.finish(f"tenant-{name}-update", Succeed(output={}))
    async with reconciling(rest.installation):
        await rest.until(name, "ready")
    # It has ended: the answer is the record, nothing runs again.
    reply = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG}, headers=headers)
    assert (reply.status, reply["status"], reply["generation"]) == (202, "ready", 2)
    assert rest.triggered(name).count(f"tenant-{name}-update-2") == 0


async def test_delete_retry_and_patch_under_a_key(rest: Rest) -> None:
    name, headers = await rest.failed(), key(unique())
    for _ in range(2):
        reply = await rest.post(f"/api/tenants/{name}/retry", headers=headers)
        assert (reply.status, reply["workflow_execution_id"]) == (202, f"tenant-{name}-plan-2")
    for _ in range(2):
        reply = await rest.patch(f"/api/tenants/{name}", {"labels": {"a": "b"}}, headers=headers)
        assert reply.json["labels"] == {"a": "b"}
    for _ in range(2):
        reply = await rest.delete(f"/api/tenants/{name}", headers=headers)
        assert (reply.status, reply["workflow_execution_id"]) == (202, f"tenant-{name}-delete")


async def test_a_key_whose_trigger_failed_goes_on_with_the_same_run(rest: Rest) -> None:
    name, headers = unique(), key(unique())
    body = {"id": name, "compute_config": CONFIG}
    rest.mock.unavailable()
    for _ in range(2):
        assert (await rest.post("/api/tenants", body, headers=headers)).status == 500
    rest.mock.restore()
    reply = await rest.post("/api/tenants", body, headers=headers)
    assert (reply.status, reply["workflow_execution_id"]) == (202, f"tenant-{name}-plan")
    assert len(await rest.executions(name)) == 1


async def test_a_repeat_is_answered_as_the_first_and_asks_for_nothing_of_others(rest: Rest) -> None:
    """A change that started no run has nothing to do with the one that happens to be under way."""
    name, headers = await rest.create(), key(unique())
    for _ in range(2):
        reply = await rest.patch(f"/api/tenants/{name}", {"labels": {"a": "b"}}, headers=headers)
        assert (reply.status, reply["workflow_execution_id"]) == (200, f"tenant-{name}-plan")
        rest.mock.unavailable()
    rest.mock.restore()
    assert (await rest.record(name))["workflow_execution_id"] == f"tenant-{name}-plan"


async def test_a_patch_that_ran_is_answered_so_after_its_run_has_ended(rest: Rest) -> None:
    name, headers = await rest.ready(), key(unique())
    body = {"compute_config": {"image": "app:2"}}
    assert (await rest.patch(f"/api/tenants/{name}", body, headers=headers)).status == 202
    rest.mock.finish(f"tenant-{name}-update", Succeed(output={}))
    async with reconciling(rest.installation):
        await rest.until(name, "ready")
    again = await rest.patch(f"/api/tenants/{name}", body, headers=headers)
    assert (again.status, again["status"], again["generation"]) == (202, "ready", 2)


async def test_a_repeat_is_not_held_against_what_it_changed_itself(rest: Rest) -> None:
    name = await rest.ready()
    etag = (await rest.get(f"/api/tenants/{name}")).headers["ETag"]
    headers = {**key(unique()), "If-Match": f'{etag}, "9999-1"'}
    for _ in range(2):
        reply = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG}, headers=headers)
        assert (reply.status, reply["generation"]) == (202, 2)


async def test_a_key_that_outlives_the_tombstone(rest: Rest) -> None:
    name, headers = unique(), key(unique())
    body = {"id": name, "compute_config": CONFIG}
    assert (await rest.post("/api/tenants", body, headers=headers)).status == 202
    rest.mock.finish(f"tenant-{name}-plan", Succeed(output={}))
    rest.mock.default = Succeed(output={})
    assert (await rest.delete(f"/api/tenants/{name}", headers=headers)).status == 202
    async with reconciling(rest.installation):
        await rest.until(name, "deleted")
    await rest.installation.repository.purge(tombstones=0, keys=86400)
    assert (await rest.post("/api/tenants", body, headers=headers)).status == 410
    assert (await rest.delete(f"/api/tenants/{name}", headers=headers)).status == 410


async def test_a_post_that_was_answered_500_may_be_repeated(rest: Rest) -> None:
    name = unique()
    rest.mock.leave_triggers_unanswered()
    reply = await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})
    assert (reply.status, reply["title"]) == (500, "Failed to trigger workflow")
    other = await rest.post("/api/tenants", {"id": name, "compute_config": {"image": "app:2"}})
    assert other.status == 409
    again = await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})
    assert (again.status, again["workflow_execution_id"]) == (202, f"tenant-{name}-plan")
    third = await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})
    assert third.status == 409
    assert len(await rest.executions(name)) == 1


async def test_a_thousand_posts_make_one_tenant(settings: Settings) -> None:
    """Two processes' worth of applications, five hundred each, without a key."""
    engine = MockProvider()
    engine.default = Stay()
    name = unique()
    body = {"id": name, "compute_config": CONFIG}
    async with serving(settings, engine=engine) as one, serving(settings, engine=engine) as two:
        replies = await asyncio.gather(*(rest.post("/api/tenants", body) for _ in range(500) for rest in (one, two)))
        assert Counter(reply.status for reply in replies) == {202: 1, 409: 999}
        [run] = await one.executions(name)
        assert run["execution_id"] == f"tenant-{name}-plan"
        assert (await one.record(name))["generation"] == 1
    assert [each.execution_id for each in engine.requests] == [f"tenant-{name}-plan"]


async def test_a_thousand_posts_under_one_key(settings: Settings) -> None:
    engine = MockProvider()
    engine.default = Stay()
    name, headers = unique(), key(unique())
    body = {"id": name, "compute_config": CONFIG}
    async with serving(settings, engine=engine) as one, serving(settings, engine=engine) as two:
        replies = await asyncio.gather(
            *(rest.post("/api/tenants", body, headers=headers) for _ in range(500) for rest in (one, two))
        )
        assert Counter(reply.status for reply in replies) == {202: 1000}
        assert {reply["workflow_execution_id"] for reply in replies} == {f"tenant-{name}-plan"}
        assert len(await one.executions(name)) == 1
    assert {each.execution_id for each in engine.requests} == {f"tenant-{name}-plan"}


async def test_a_hundred_puts_during_one_run(rest: Rest) -> None:
    name = await rest.ready()
    assert (await rest.put(f"/api/tenants/{name}", {"compute_config": {"image": "app:0"}})).status == 202
    replies = await asyncio.gather(
        *(rest.put(f"/api/tenants/{name}", {"compute_config": {"image": f"app:{n}"}}) for n in range(100))
    )
    assert Counter(reply.status for reply in replies) == {202: 100}
    assert {reply["workflow_execution_id"] for reply in replies} == {f"tenant-{name}-update"}
    assert sorted(reply["generation"] for reply in replies) == list(range(3, 103))
    last = await rest.record(name)
    assert last["generation"] == 102
    rest.mock.default = Succeed(output={})
    rest.mock.finish(f"tenant-{name}-update", Succeed(output={}))
    async with reconciling(rest.installation):
        ready = await rest.until(name, "ready")
    assert ready["observed_generation"] == 102
    updates = [run for run in await rest.executions(name) if run["action"] == "update"]
    assert [run["execution_id"] for run in updates] == [f"tenant-{name}-update", f"tenant-{name}-update-2"]
    assert updates[1]["spec"]["compute_config"]["image"] == last["compute_config"]["image"]


async def test_a_key_is_remembered_though_its_request_had_nothing_to_change(rest: Rest) -> None:
    """Who repeats it later has not asked for anything new, whatever others have made of the tenant meanwhile."""
    name, update, deletion = await rest.ready(), key(unique()), key(unique())
    body = {"compute_config": {"image": "app:2"}}
    rest.mock.unavailable()
    assert (await rest.put(f"/api/tenants/{name}", body)).status == 500
    assert (await rest.put(f"/api/tenants/{name}", body, headers=update)).status == 500
    rest.mock.restore()
    assert (await rest.put(f"/api/tenants/{name}", body, headers=update)).status == 202
    assert rest.triggered(name).count(f"tenant-{name}-update") == 1
    assert (await rest.put(f"/api/tenants/{name}", {"compute_config": {"image": "app:3"}})).status == 202
    late = await rest.put(f"/api/tenants/{name}", body, headers=update)
    assert (late.status, late["compute_config"]) == (202, {"image": "app:3"})

    rest.mock.default = Succeed(output={})
    rest.mock.finish(f"tenant-{name}-update", Succeed(output={}))
    for headers in ({}, deletion, deletion):
        reply = await rest.delete(f"/api/tenants/{name}", headers=headers)
        assert (reply.status, reply["status"]) == (202, "deleting")
    async with reconciling(rest.installation):
        await rest.until(name, "deleted")
        await rest.create(name)
        await rest.until(name, "ready")
    assert (await rest.delete(f"/api/tenants/{name}", headers=deletion))["status"] == "ready"
