"""Whatever is malformed is refused with the place of every fault, and nothing is stored."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from fixtures.rest import Rest, unique
from yarl import URL

CONFIG = {"image": "app:1"}
JSON = {"Content-Type": "application/json"}


def body(**fields: Any) -> dict[str, Any]:
    return {"id": "name", "compute_config": CONFIG, **fields}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"id": ""}, {"/id"}),
        ({"id": "-a"}, {"/id"}),
        ({"id": "a" * 51}, {"/id"}),
        ({"id": "a\n"}, {"/id"}),
        ({"id": "ä"}, {"/id"}),
        ({"id": 5}, {"/id"}),
        ({"id": None}, {"/id"}),
        ({"compute_config": []}, {"/compute_config"}),
        ({"compute_config": None}, {"/compute_config"}),
        ({"compute_provider": ""}, {"/compute_provider"}),
        ({"compute_provider": None}, {"/compute_provider"}),
        ({"compute_provider": "x" * 65}, {"/compute_provider"}),
        ({"paused": "true"}, {"/paused"}),
        ({"paused": 1}, {"/paused"}),
        ({"deletion_policy": "Keep"}, {"/deletion_policy"}),
        ({"labels": {"team": 1}}, {"/labels/team"}),
        ({"labels": {"team": "a b"}}, {"/labels/team"}),
        ({"labels": {"team": "x" * 64}}, {"/labels/team"}),
        ({"labels": {"a/b/c": "x", "ok": "y"}}, {"/labels/a~1b~1c"}),
        ({"labels": {f"k{number}": "x" for number in range(65)}}, {"/labels"}),
        ({"labels": []}, {"/labels"}),
        ({"labels": None}, {"/labels"}),
        ({"annotations": {"note": None}}, {"/annotations/note"}),
        ({"annotations": {"note": "x" * 65536}}, {"/annotations"}),
        ({"a": 1, "b/c": 2, "paused": 3}, {"/a", "/b~1c", "/paused"}),
        ({"generation": 7, "status": "ready"}, {"/generation", "/status"}),
        ({"_schema": 1, "labels": {"_schema": "x"}}, {"/_schema", "/labels/_schema"}),
        (
            {"compute_config": {"delay_seconds": -1, "fail_first": "x"}},
            {"/compute_config/delay_seconds", "/compute_config/fail_first"},
        ),
        ({"compute_config": {"text": "x" * 131072}}, {"/compute_config"}),
        ({"compute_config": {"text": "a\x00b"}}, {"/compute_config/text"}),
        ({"compute_config": {"a\x00": 1}}, {"/compute_config/a?"}),
        ({"compute_config": {"list": [1, "\ud800"]}}, {"/compute_config/list/1"}),
        ({"compute_config": {"n": 2**53 + 1, "m": -(2**53) - 1}}, {"/compute_config/n", "/compute_config/m"}),
        ({"compute_config": {"n": 10**30}}, {"/compute_config/n"}),
        ({"labels": {"team": "\x00"}}, {"/labels/team"}),
        ({"annotations": {"a": "\x00", "b": "\udfff"}}, {"/annotations/a", "/annotations/b"}),
    ],
)
async def test_fields_of_a_post(rest: Rest, fields: dict[str, Any], wrong: set[str]) -> None:
    reply = await rest.call("POST", "/api/tenants", data=json.dumps(body(**fields)), headers=JSON)
    assert reply.status == 400
    assert reply.pointers == wrong
    assert all(each["detail"] for each in reply["errors"])
    assert (await rest.get("/api/tenants?include_deleted=true&count=true"))["total"] == 0
    assert rest.mock.requests == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"id": "name"} x',
        b'{"id": "name", "id": "other", "compute_config": {}}',
        b'{"id": "name", "compute_config": {"a": 1, "a": 2}}',
        b"[]",
        b"null",
        b'"name"',
        b"7",
        b'{"id": "name", "compute_config": {"a": NaN}}',
        b'{"id": "name", "compute_config": {"a": Infinity}}',
        b'{"id": "name", "compute_config": {"a": 1e999}}',
        b'{"id": "name", "compute_config": {"a": ' + b"9" * 5000 + b"}}",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"id": "name", "compute_config": {"a": "\x01"}}',
        b'{"id": "name", "compute_config": {"a": ' + b"[" * 70 + b"]" * 70 + b"}}",
        b"[" * 200_000,
        b'{"a":' * 40_000,
    ],
)
async def test_what_is_not_json(rest: Rest, raw: bytes) -> None:
    reply = await rest.call("POST", "/api/tenants", data=raw, headers=JSON)
    assert reply.status == 400
    assert b"Traceback" not in reply.raw
    assert (await rest.get("/api/tenants/name")).status == 404


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/tenants"), ("PUT", "/api/tenants/name"), ("PATCH", "/v1/tenants/name")]
)
async def test_bodies_of_more_than_256_kib(rest: Rest, method: str, path: str) -> None:
    large = json.dumps(body(annotations={"note": "x" * 262_144})).encode()
    declared = await rest.call(method, path, data=large, headers=JSON)
    assert declared.status == 413

    async def chunks() -> Any:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    undeclared = await rest.call(method, path, data=chunks(), headers=JSON)
    assert undeclared.status == 413
    assert undeclared["title"] == "Body too large"


@pytest.mark.parametrize(
    ("method", "path", "media_type"),
    [
        ("POST", "/api/tenants", "application/x-www-form-urlencoded"),
        ("POST", "/api/tenants", "text/plain"),
        ("POST", "/api/tenants", "application/merge-patch+json"),
        ("PUT", "/api/tenants/name", "application/merge-patch+json"),
        ("PATCH", "/api/tenants/name", "application/json-patch+json"),
        ("POST", "/api/tenants/name/retry", "text/plain"),
    ],
)
async def test_media_types(rest: Rest, method: str, path: str, media_type: str) -> None:
    reply = await rest.call(method, path, data=json.dumps(body()), headers={"Content-Type": media_type})
    assert reply.status == 415
    assert reply.pointers == {"Content-Type"}
    if method == "PATCH":
        assert reply.headers["Accept-Patch"] == "application/merge-patch+json, application/json"
    else:
        assert reply.headers["Accept"] == "application/json"


@pytest.mark.parametrize("coding", ["aes128gcm", "gzip, gzip", "compress"])
async def test_content_codings(rest: Rest, coding: str) -> None:
    """What a body in another coding holds, nobody knows: it is not taken as it is."""
    sent = body(id=unique())
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    reply = await rest.call("POST", "/api/tenants", data=json.dumps(sent), headers=headers)
    assert (reply.status, reply.pointers) == (415, {"Content-Encoding"})
    assert reply.headers["Accept-Encoding"] == "gzip, deflate"
    assert (await rest.get(f"/api/tenants/{sent['id']}")).status == 404


@pytest.mark.parametrize(
    ("coding", "encode"), [("gzip", gzip.compress), ("Deflate", zlib.compress), ("identity", bytes)]
)
async def test_content_codings_that_are_taken(rest: Rest, coding: str, encode: Callable[[bytes], bytes]) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    reply = await rest.call(
        "POST", "/api/tenants", data=encode(json.dumps(body(id=unique())).encode()), headers=headers
    )
    assert reply.status == 202


async def test_media_types_that_are_taken(rest: Rest) -> None:
    name = await rest.create()
    for media_type in ("application/json", "application/json; charset=utf-8", "application/merge-patch+json"):
        reply = await rest.call(
            "PATCH", f"/api/tenants/{name}", data='{"labels": {"a": "b"}}', headers={"Content-Type": media_type}
        )
        assert reply.status == 200


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, {"/compute_config"}),
        ({"compute_config": CONFIG, "id": "other"}, {"/id"}),
        ({"compute_config": CONFIG, "compute_provider": "docker"}, {"/compute_provider"}),
        ({"compute_config": {"delay_seconds": "x"}}, {"/compute_config/delay_seconds"}),
        ({"compute_config": 1, "labels": 2, "paused": 3}, {"/compute_config", "/labels", "/paused"}),
    ],
)
async def test_fields_of_a_put(rest: Rest, fields: dict[str, Any], wrong: set[str]) -> None:
    name = await rest.ready()
    before = await rest.record(name)
    reply = await rest.put(f"/api/tenants/{name}", fields)
    assert reply.status == 400
    assert reply.pointers == wrong
    assert await rest.record(name) == before


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"id": "other"}, {"/id"}),
        ({"compute_config": None}, {"/compute_config"}),
        ({"compute_config": {"delay_seconds": "x"}}, {"/compute_config/delay_seconds"}),
        ({"compute_provider": "docker"}, {"/compute_provider"}),
        ({"labels": {"a": 1}}, {"/labels/a"}),
        ({"paused": "no"}, {"/paused"}),
        ({"status": "ready"}, {"/status"}),
    ],
)
async def test_fields_of_a_patch(rest: Rest, fields: dict[str, Any], wrong: set[str]) -> None:
    name = await rest.ready()
    before = await rest.record(name)
    reply = await rest.patch(f"/api/tenants/{name}", fields)
    assert reply.status == 400
    assert reply.pointers == wrong
    assert await rest.record(name) == before


async def test_what_a_patch_makes_of_labels_and_annotations_is_limited(rest: Rest) -> None:
    """As what a POST brings is; not what the patch itself has, which may take many away."""
    labels, annotations = {f"k{number}": "x" for number in range(64)}, {"note": "x" * 60_000}
    name = await rest.create(labels=labels, annotations=annotations)
    path, before = f"/api/tenants/{name}", await rest.record(name)
    for more in ({}, {"compute_config": {"image": "app:2"}}):
        reply = await rest.patch(path, {"labels": {"k64": "x"}, "annotations": {"more": "x" * 6_000}, **more})
        assert (reply.status, reply.pointers) == (400, {"/labels", "/annotations"})
    assert await rest.record(name) == before
    swapped = {"labels": {**dict.fromkeys(labels), "k64": "y"}, "annotations": {"note": "y" * 65_000}}
    reply = await rest.patch(path, swapped)
    assert (reply.status, reply["labels"], reply["annotations"]) == (200, {"k64": "y"}, swapped["annotations"])


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("limit=0", {"limit"}),
        ("limit=1001", {"limit"}),
        ("limit=ten", {"limit"}),
        ("limit=1&limit=2", {"limit"}),
        ("limit=", {"limit"}),
        ("limit=%D9%A1", {"limit"}),
        ("cursor=", {"cursor"}),
        ("cursor=***", {"cursor"}),
        ("cursor=a", {"cursor"}),
        ("cursor=%C3%A4", {"cursor"}),
        ("cursor=dGVuYW50czrk", {"cursor"}),
        ("cursor=dGVuYW50czphYmM=", {"cursor"}),
        ("cursor=YWJj", {"cursor"}),
        ("cursor=ZXZlbnRzOjE", {"cursor"}),
        ("cursor=dGVuYW50czotLS0", {"cursor"}),
        ("status=happy", {"status"}),
        ("label=team", {"label"}),
        ("label==x", {"label"}),
        ("label=a%00=b", {"label"}),
        ("include_deleted=perhaps", {"include_deleted"}),
        ("count=yes", {"count"}),
        ("offset=5&colour=red", {"offset", "colour"}),
        ("compute_provider=a%00b", {"compute_provider"}),
    ],
)
async def test_queries(rest: Rest, query: str, wrong: set[str]) -> None:
    reply = await rest.get(f"/api/tenants?{query}")
    assert reply.status == 400
    assert reply.pointers == wrong


@pytest.mark.parametrize("name", ["UPPER", "-a", "a" * 51, "a%20b", "a%2Fb", "a%00", "%F0%9F%98%80", "a.b"])
@pytest.mark.parametrize("suffix", ["", "/executions", "/events"])
async def test_ids_in_paths(rest: Rest, name: str, suffix: str) -> None:
    reply = await rest.get(f"/api/tenants/{name}{suffix}")
    assert reply.status == 400
    assert reply.pointers == {"id"}


async def test_more_of_paths(rest: Rest) -> None:
    assert (await rest.get("/api/executions/tenant-nobody-plan")).status == 404
    assert (await rest.get("/api/executions/a%20b")).pointers == {"execution_id"}
    assert (await rest.get(f"/api/tenants/{unique()}/executions")).status == 404
    assert (await rest.get(f"/api/tenants/{unique()}/events")).status == 404
    for path in (
        "/",
        "/api",
        "/api/",
        "/api/tenant",
        "/apis",
        "/api/tenants/",
        "/v2/tenants",
        "/api/docs/static/app.py",
    ):
        reply = await rest.get(path)
        assert (reply.status, reply["title"]) == (404, "Not Found"), path
    climbing = URL(f"{rest.url}/api/docs/static/..%2Fapp.py", encoded=True)
    async with rest.session.get(climbing) as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/tenants", "GET, HEAD, POST"),
        ("DELETE", "/v1/tenants", "GET, HEAD, POST"),
        ("POST", "/api/tenants/name", "DELETE, GET, HEAD, PATCH, PUT"),
        ("GET", "/api/tenants/name/retry", "POST"),
        ("PROPFIND", "/api/compute/config", "GET, HEAD"),
    ],
)
async def test_methods(rest: Rest, method: str, path: str, allowed: str) -> None:
    reply = await rest.call(method, path)
    assert reply.status == 405
    assert reply.headers["Allow"] == allowed


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "schlüssel"])
async def test_idempotency_keys(rest: Rest, key: str) -> None:
    reply = await rest.post("/api/tenants", body(), headers={"Idempotency-Key": key})
    assert reply.status == 400
    assert reply.pointers == {"Idempotency-Key"}
    assert (await rest.get("/api/tenants/name")).status == 404


async def test_one_key_for_one_request(rest: Rest) -> None:
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with rest.session.post(f"{rest.url}/api/tenants", json=body(), headers=twice) as answer:
        assert answer.status == 400
    assert (await rest.get("/api/tenants/name")).status == 404


@pytest.mark.parametrize("tag", ["1-1", '"1-1', '"1-1", 1-1', "*, *", '"a" "b"', ",", "W/1"])
async def test_entity_tags(rest: Rest, tag: str) -> None:
    name = await rest.create()
    reply = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG}, headers={"If-Match": tag})
    assert (reply.status, reply.pointers) == (400, {"If-Match"})
    reply = await rest.get(f"/api/tenants/{name}", headers={"If-None-Match": tag})
    assert (reply.status, reply.pointers) == (400, {"If-None-Match"})


@pytest.mark.parametrize(
    ("method", "suffix"),
    [("GET", ""), ("PUT", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/retry")],
)
async def test_a_parameter_that_nothing_takes_is_refused(rest: Rest, method: str, suffix: str) -> None:
    """Who asks for a dry run must not have deleted."""
    name = await rest.ready()
    before = await rest.get(f"/api/tenants/{name}")
    sent = {"compute_config": {**CONFIG, "replicas": 7}} if method in ("PUT", "PATCH") else None
    reply = await rest.call(method, f"/api/tenants/{name}{suffix}?dry_run=true", json=sent)
    assert reply.status == 400
    assert reply["errors"] == [{"parameter": "dry_run", "detail": "is not a known parameter"}]
    assert (await rest.get(f"/api/tenants/{name}")).raw == before.raw


async def test_a_parameter_of_what_is_made_or_read_is_refused(rest: Rest) -> None:
    reply = await rest.post("/api/tenants?dryRun=All", body())
    assert reply["errors"] == [{"parameter": "dryRun", "detail": "is not a known parameter"}]
    assert (await rest.get("/api/tenants/name")).status == 404
    name = await rest.create()
    execution = (await rest.get(f"/api/tenants/{name}"))["workflow_execution_id"]
    reply = await rest.get(f"/api/executions/{execution}?verbose")
    assert (reply.status, reply.pointers) == (400, {"verbose"})


async def test_what_was_wrong_where_and_what_is_allowed(rest: Rest) -> None:
    """Not that the configuration is wrong where it is the provider, nor that what is ready makes progress."""
    reply = await rest.post("/api/tenants", body(compute_provider="dokcer"))
    assert reply["detail"] == "the spec is not valid"
    assert reply["errors"] == [{"pointer": "/compute_provider", "detail": "must be one of mock, docker"}]
    reply = await rest.get("/api/tenants?labels=a=b")
    assert reply["errors"] == [{"parameter": "labels", "detail": "is not a known parameter"}]
    reply = await rest.get("/")
    assert reply["detail"] == "there is nothing at this path; /api/docs shows what there is"
    reply = await rest.post(f"/api/tenants/{await rest.ready()}/retry")
    assert reply["type"] == "urn:landlord:problem:conflict"
    assert reply["detail"].endswith(" is ready; only what failed, is stalled or could not be started is retried")


async def test_nothing_of_a_secret_is_shown(rest: Rest) -> None:
    wrong = {"image": "app", "env": {"PASSWORD": ["hunter2"]}, "memory_mb": "hunter2"}
    reply = await rest.post("/api/tenants", body(compute_provider="docker", compute_config=wrong))
    assert reply.status == 400
    assert b"hunter2" not in reply.raw
