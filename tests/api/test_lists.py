"""Lists: pages at any depth, filters, history."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from fixtures.rest import Rest, serving
from pydantic import SecretStr

from landlord.settings import Settings
from landlord_api import pages

DEPTH = 3_000


async def walk(rest: Rest, path: str, name: str) -> list[dict[str, Any]]:
    """Every page of a list, by its cursors."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        reply = await rest.get(f"{path}{f'&cursor={cursor}' if cursor else ''}")
        assert reply.status == 200
        found.extend(reply[name])
        cursor = reply["next_cursor"]
    return found


async def fill(url: str, rest: Rest) -> None:
    """Tenants without number, copied from one that the API made."""
    await rest.create("original", labels={"team": "a"})
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            f"""insert into tenants
            select (jsonb_populate_record(t, jsonb_build_object(
                'id', 'copy-' || lpad(n::text, 6, '0'),
                'status', (array['ready', 'failed', 'deleted'])[n %% 3 + 1],
                'labels', jsonb_build_object('team', 'b', 'number', n::text),
                'workflow_execution_id', null, 'head', null, 'next_check_at', null
            ))).* from tenants t, generate_series(1, {DEPTH}) n""".replace("%%", "%").encode()
        )


async def test_pages_and_filters(settings: Settings, test_database_url: str) -> None:
    own = settings.model_copy(update={"database_url": SecretStr(test_database_url)})
    async with serving(own) as rest:
        await fill(test_database_url, rest)
        third = DEPTH // 3
        everything = await walk(rest, "/api/tenants?limit=1000&include_deleted=true", "tenants")
        ids = [record["id"] for record in everything]
        assert ids == sorted(ids)
        assert len(ids) == len(set(ids)) == DEPTH + 1
        default = await rest.get("/api/tenants")
        assert len(default["tenants"]) == 100
        assert "total" not in default.json
        assert all(record["status"] != "deleted" for record in default["tenants"])
        total = await rest.get("/api/tenants?count=true&limit=1&include_deleted=1")
        assert total["total"] == DEPTH + 1
        deleted = await rest.get("/api/tenants?status=deleted&count=true&limit=1")
        assert deleted["total"] in (third, third + 1)
        assert deleted["tenants"][0]["status"] == "deleted"
        failed = await walk(rest, "/api/tenants?status=failed&limit=1000", "tenants")
        assert {record["status"] for record in failed} == {"failed"}
        one = await rest.get("/api/tenants?label=team=b&label=number=1&count=true")
        assert [record["id"] for record in one["tenants"]] == ["copy-000001"]
        assert one["total"] == 1
        original = await rest.get("/api/tenants?label=team%3Da&label=team=a&compute_provider=mock")
        assert [record["id"] for record in original["tenants"]] == ["original"]
        assert (await rest.get("/api/tenants?compute_provider=docker"))["tenants"] == []
        none = await rest.get("/api/tenants?label=team=a&label=team=b&count=true")
        assert (none["tenants"], none["total"], none["next_cursor"]) == ([], 0, None)


async def test_a_last_page_that_is_just_full(settings: Settings, test_database_url: str) -> None:
    own = settings.model_copy(update={"database_url": SecretStr(test_database_url)})
    async with serving(own) as rest:
        for number in range(4):
            await rest.create(f"t{number}")
        page = await rest.get("/api/tenants?limit=4")
        assert (len(page["tenants"]), page["next_cursor"]) == (4, None)
        page = await rest.get("/api/tenants?limit=3")
        assert page["next_cursor"]
        # What comes and goes meanwhile moves nobody to another page.
        await rest.create("t2a")
        rest_of = await rest.get(f"/v1/tenants?limit=3&cursor={page['next_cursor']}")
        assert [record["id"] for record in rest_of["tenants"]] == ["t2a", "t3"]


async def test_a_page_of_large_ones_ends_sooner(settings: Settings, test_database_url: str) -> None:
    """Else a thousand of the largest are half a gigabyte in one process, which serves nobody else meanwhile."""
    own = settings.model_copy(update={"database_url": SecretStr(test_database_url)})
    async with serving(own) as rest:
        await rest.create("original", compute_config={"image": "x" * 120_000})
        async with await psycopg.AsyncConnection.connect(test_database_url, autocommit=True) as connection:
            await connection.execute(
                """insert into tenants select (jsonb_populate_record(t, jsonb_build_object(
                    'id', 'copy-' || lpad(n::text, 3, '0'), 'next_check_at', null
                ))).* from tenants t, generate_series(1, 149) n"""
            )
        page = await rest.get("/api/tenants?limit=1000")
        assert len(page.raw) < pages.LARGEST + 150_000
        everything = await walk(rest, "/api/tenants?limit=1000", "tenants")
        assert len({record["id"] for record in everything}) == len(everything) == 150


async def test_history(rest: Rest) -> None:
    name = await rest.ready()
    for number in range(5):
        await rest.patch(f"/api/tenants/{name}", {"labels": {"n": str(number)}})
    events = await walk(rest, f"/api/tenants/{name}/events?limit=2", "events")
    assert [event["event"] for event in events][:5] == ["changed"] * 5
    assert (events[-1]["event"], events[-1]["from_status"], events[-1]["to_status"]) == ("create", None, "planning")
    assert {(event["door"], event["who"]) for event in events} == {("api", "anonymous"), ("controller", "landlord")}
    assert len({event["id"] for event in events}) == len(events)
    runs = await walk(rest, f"/api/tenants/{name}/executions?limit=1", "executions")
    assert [run["execution_id"] for run in runs] == [f"tenant-{name}-provision", f"tenant-{name}-plan"]
    assert runs[0]["spec"]["compute_config"]["image"] == "app:1"
    assert runs[0]["spec"]["compute_config"]["delay_seconds"] == 0  # defaults were filled in when it was sent
    assert runs[0] == (await rest.get(f"/v1/executions/tenant-{name}-provision")).json
    # A cursor of one list is no cursor of another.
    page = await rest.get(f"/api/tenants/{name}/events?limit=1")
    assert (await rest.get(f"/api/tenants/{name}/executions?cursor={page['next_cursor']}")).status == 400


async def test_the_trail_holds_no_values(rest: Rest) -> None:
    name = await rest.create(compute_config={"env": {"PASSWORD": "hunter2"}})
    assert "hunter2" not in json.dumps((await rest.get(f"/api/tenants/{name}/events")).json)
