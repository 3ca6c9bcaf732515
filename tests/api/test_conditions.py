"""ETag, If-Match, If-None-Match, and what PATCH and retry do."""

from __future__ import annotations

import pytest
from fixtures.rest import Rest

CONFIG = {"image": "app:1"}


async def test_304_compares_the_whole_tag(rest: Rest) -> None:
    name = await rest.create()
    first = await rest.get(f"/api/tenants/{name}")
    tag = first.headers["ETag"]
    assert tag.startswith('"1-')
    for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        reply = await rest.get(f"/api/tenants/{name}", headers={"If-None-Match": given})
        assert (reply.status, reply.raw, reply.headers["ETag"]) == (304, b"", tag)
    # The status moves on: another revision of the same version.
    rest.mock.finish(f"tenant-{name}-plan")
    await rest.installation.reconciler().reconcile(name)
    reply = await rest.get(f"/api/tenants/{name}", headers={"If-None-Match": tag})
    assert reply.status == 200
    assert reply.headers["ETag"] != tag
    assert reply.headers["ETag"].partition("-")[0] == tag.partition("-")[0]


async def test_if_match_compares_the_version_only(rest: Rest) -> None:
    name = await rest.create()
    tag = (await rest.get(f"/api/tenants/{name}")).headers["ETag"]
    rest.mock.finish(f"tenant-{name}-plan")
    await rest.installation.reconciler().reconcile(name)
    reply = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG}, headers={"If-Match": tag})
    assert reply.status == 202
    late = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG}, headers={"If-Match": tag})
    assert late.status == 412
    assert late["title"] == "Precondition Failed"
    assert (await rest.record(name))["generation"] == 2


@pytest.mark.parametrize(
    ("tag", "status"),
    [
        ("*", 202),
        ('"1-1"', 202),
        ('"9-9", "1-7"', 202),
        ('"9-9", "8-8"', 412),
        ('"abc"', 412),
        ('W/"1-1"', 412),
        ('""', 412),
        ('"1-1", W/"5-5"', 202),
        (', "9-9",, ,"1-1" ,', 202),
        ('"€"', 412),
    ],
)
async def test_lists_of_tags(rest: Rest, tag: str, status: int) -> None:
    name = await rest.create()
    for method, body in (("PUT", {"compute_config": CONFIG}), ("DELETE", None)):
        reply = await rest.call(method, f"/api/tenants/{name}", json=body, headers={"If-Match": tag})
        if method == "DELETE" and "*" not in tag:
            status = 412  # the PUT has raised the version, or it was wrong before
        assert reply.status == status


async def test_a_list_of_tags_in_several_headers(rest: Rest) -> None:
    url = f"{rest.url}/api/tenants/{await rest.create()}"
    for tags in (('"9-9"', '"1-1"'), ('"2-1"', '"9-9"')):
        headers = [("If-Match", tag) for tag in tags]
        async with rest.session.put(url, json={"compute_config": CONFIG}, headers=headers) as answer:
            assert answer.status == 202, tags


async def test_if_match_on_what_is_not_there(rest: Rest) -> None:
    gone = await rest.deleted()
    for name, status in (("nobody", 404), (gone, 410)):
        for tag in ('"1-1"', '"abc"', '"1-1", "2-2"', "*"):
            reply = await rest.delete(f"/api/tenants/{name}", headers={"If-Match": tag})
            assert reply.status == status


async def test_every_record_has_its_tag(rest: Rest) -> None:
    reply = await rest.post("/api/tenants", {"id": "tagged", "compute_config": CONFIG})
    assert reply.headers["ETag"] == (await rest.get("/api/tenants/tagged")).headers["ETag"]
    reply = await rest.patch("/api/tenants/tagged", {"paused": True})
    assert reply.headers["ETag"] == (await rest.get("/api/tenants/tagged")).headers["ETag"]
    reply = await rest.delete("/api/tenants/tagged")
    assert reply.headers["ETag"] == (await rest.get("/api/tenants/tagged")).headers["ETag"]


async def test_head_is_get_without_the_body(rest: Rest) -> None:
    name = await rest.create()
    one = f"/api/tenants/{name}"
    lists = ("/api/tenants", f"{one}/executions", f"{one}/events", f"/api/executions/tenant-{name}-plan")
    others = ("/api/compute/config", "/api/openapi.json", "/api/docs", "/api/docs/static/swagger-ui.css", "/healthz")
    for path in (one, *lists, *others):
        got, reply = await rest.get(path), await rest.call("HEAD", path)
        assert (reply.status, reply.raw) == (200, b""), path
        for header in ("Content-Length", "Content-Type", "ETag"):
            assert reply.headers.get(header) == got.headers.get(header), path


async def test_if_match_on_what_is_only_read(rest: Rest) -> None:
    name = await rest.create()
    path = f"/api/tenants/{name}"
    for tag, status in (("*", 200), ('"1-99"', 200), ('"9-9", "1-7"', 200), ('"2-1"', 412), ('W/"1-1"', 412)):
        headers = {"If-Match": tag, "If-None-Match": '"x"'}
        assert (await rest.get(path, headers=headers)).status == status, tag
        async with rest.session.head(rest.url + path, headers=headers) as answer:
            assert answer.status == status, tag
    assert (await rest.get("/api/tenants/nobody", headers={"If-Match": '"1-1"'})).status == 404


@pytest.mark.parametrize("tag", ["*", '"1-1"', "nonsense"])
async def test_a_change_is_not_made_regardless_of_if_none_match(rest: Rest, tag: str) -> None:
    name = await rest.ready()
    before = await rest.record(name)
    spec = {"compute_config": {"image": "app:2"}}
    for method, path, body in (
        ("POST", "/api/tenants", {"id": "new", **spec}),
        ("PUT", f"/api/tenants/{name}", spec),
        ("PATCH", f"/api/tenants/{name}", spec),
        ("DELETE", f"/api/tenants/{name}", None),
        ("POST", f"/api/tenants/{name}/retry", None),
    ):
        reply = await rest.call(method, path, json=body, headers={"If-None-Match": tag})
        assert (reply.status, reply.pointers) == (400, {"If-None-Match"}), method
        assert "If-Match" in reply["errors"][0]["detail"]
    assert await rest.record(name) == before
    assert (await rest.get("/api/tenants/new")).status == 404


@pytest.mark.parametrize("tag", ["*", '"1-1"', "nonsense"])
async def test_a_tenant_is_not_made_regardless_of_if_match(rest: Rest, tag: str) -> None:
    """Nor is a new life begun: who asks for the tombstone's version would be answered by what he did not ask for."""
    gone = await rest.deleted()
    for name in (gone, "new"):
        body = {"id": name, "compute_config": CONFIG}
        reply = await rest.post("/api/tenants", body, headers={"If-Match": tag})
        assert (reply.status, reply.pointers) == (400, {"If-Match"})
    assert (await rest.record(gone))["status"] == "deleted"
    assert (await rest.get("/api/tenants/new")).status == 404


async def test_a_merge_patch_merges(rest: Rest) -> None:
    name = await rest.ready(compute_config={"image": "app:1", "env": {"A": "1", "B": "2"}}, labels={"a": "1", "b": "2"})
    path = f"/api/tenants/{name}"
    labelled = await rest.patch(path, {"labels": {"a": None, "c": "3"}, "deletion_policy": "Retain"})
    assert (labelled.status, labelled["labels"], labelled["generation"]) == (200, {"b": "2", "c": "3"}, 1)
    assert labelled["deletion_policy"] == "Retain"
    assert labelled["status"] == "ready"
    cleared = await rest.patch(path, {"labels": None, "deletion_policy": None})
    assert (cleared.status, cleared["labels"], cleared["deletion_policy"]) == (200, {}, "Delete")
    changed = await rest.patch(path, {"compute_config": {"env": {"A": None, "C": "3"}}})
    assert (changed.status, changed["status"], changed["generation"]) == (202, "updating", 2)
    assert changed["compute_config"] == {"image": "app:1", "env": {"B": "2", "C": "3"}}
    assert changed["workflow_execution_id"] == f"tenant-{name}-update"


async def test_pausing(rest: Rest) -> None:
    reply = await rest.post("/api/tenants", {"id": "held", "compute_config": CONFIG, "paused": True})
    assert (reply.status, reply["status"], reply["workflow_execution_id"]) == (202, "requested", None)
    assert rest.triggered("held") == []
    changed = await rest.patch("/api/tenants/held", {"compute_config": {"image": "app:2"}})
    assert (changed["status"], changed["generation"]) == ("requested", 2)
    freed = await rest.patch("/api/tenants/held", {"paused": False})
    assert (freed.status, freed["status"], freed["workflow_execution_id"]) == (202, "planning", "tenant-held-plan")
    assert rest.triggered("held") == ["tenant-held-plan"]


async def test_a_put_keeps_what_it_does_not_name(rest: Rest) -> None:
    name = await rest.ready(labels={"a": "1"}, annotations={"n": "x"}, deletion_policy="Retain")
    kept = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG, "compute_provider": "mock"})
    assert (kept["labels"], kept["annotations"], kept["deletion_policy"]) == ({"a": "1"}, {"n": "x"}, "Retain")
    replaced = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG, "labels": {}, "annotations": {}})
    assert (replaced["labels"], replaced["annotations"]) == ({}, {})
    held = {"annotations": {"n": "y"}, "deletion_policy": "Delete", "paused": True}
    replaced = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG, **held})
    assert replaced.json.items() >= held.items()
    assert (await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG})).json.items() >= held.items()


async def test_retry(rest: Rest) -> None:
    healthy = await rest.ready()
    assert (await rest.post(f"/api/tenants/{healthy}/retry")).status == 409
    assert (await rest.post("/api/tenants/nobody/retry")).status == 404
    failed = await rest.failed()
    again = await rest.post(f"/api/tenants/{failed}/retry", {"compute_config": {"image": "app:2"}})
    assert (again.status, again["status"], again["generation"]) == (202, "planning", 2)
    assert again["workflow_execution_id"] == f"tenant-{failed}-plan-2"
    invalid = await rest.post(f"/api/tenants/{failed}/retry", {"compute_config": {"delay_seconds": -1}})
    assert invalid.status in (400, 409)


async def test_a_new_life_after_a_delete(rest: Rest) -> None:
    name = await rest.deleted()
    tombstone = await rest.record(name)
    assert tombstone["deleted_at"] is not None
    reply = await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})
    assert (reply.status, reply["status"], reply["generation"]) == (202, "planning", 2)
    assert reply["workflow_execution_id"] == f"tenant-{name}-plan-2"
    assert reply["deleted_at"] is None
