"""Bearer tokens and request ids."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
import structlog
from fixtures.rest import Rest, serving

from landlord.settings import ConfigurationError, Settings
from landlord_api.auth import Caller, Tokens

CONFIG = {"image": "app:1"}


def line(name: str, token: str) -> str:
    return f"{name}:{hashlib.sha256(token.encode()).hexdigest()}\n"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# who may call\n\n" + line("alice", "a-token") + " \t" + line("bob", "b-token"))
    return path


GUARDED = [
    ("GET", "/api/tenants"),
    ("GET", "/v1/tenants"),
    ("POST", "/api/tenants"),
    ("GET", "/api/tenants/name"),
    ("PUT", "/v1/tenants/name"),
    ("PATCH", "/api/tenants/name"),
    ("DELETE", "/api/tenants/name"),
    ("POST", "/api/tenants/name/retry"),
    ("GET", "/api/tenants/name/executions"),
    ("GET", "/api/executions/name"),
    ("POST", "/api/executions/name/callback"),
    ("GET", "/api/tenants/name/events"),
    ("GET", "/api/compute/config"),
    ("GET", "/api/nothing"),
    ("PUT", "/v1/tenants"),
]


async def test_what_needs_a_token(settings: Settings, file: Path) -> None:
    async with serving(settings, tokens=Tokens(file)) as rest:
        for method, path in GUARDED:
            for headers in (
                {},
                bearer("wrong"),
                bearer(""),
                {"Authorization": "Basic YTpi"},
                {"Authorization": "Bearer"},
                {"Authorization": "a-token"},
                bearer(hashlib.sha256(b"a-token").hexdigest()),
                bearer("a-token b-token"),
            ):
                reply = await rest.call(method, path, headers=headers)
                assert reply.status == 401, (method, path, headers)
                assert reply.headers["WWW-Authenticate"].startswith("Bearer")
                assert reply.pointers == {"Authorization"}
        for path in ("/healthz", "/readyz", "/metrics", "/api/docs", "/v1/docs", "/api/openapi.json"):
            assert (await rest.get(path)).status == 200
        assert (await rest.get("/api/docs/static/swagger-ui.css")).status == 200
        assert (await rest.get("/apis")).status == 404
        assert (await rest.get("/api/tenants", headers={"Authorization": "bearer a-token"})).status == 200


async def test_the_name_is_in_the_trail(settings: Settings, file: Path) -> None:
    async with serving(settings, tokens=Tokens(file)) as rest:
        body = {"id": "audited", "compute_config": CONFIG}
        assert (await rest.post("/api/tenants", body, headers=bearer("a-token"))).status == 202
        reply = await rest.patch("/api/tenants/audited", {"labels": {"a": "b"}}, headers=bearer("b-token"))
        assert reply.status == 200
        events = (await rest.get("/api/tenants/audited/events", headers=bearer("b-token")))["events"]
        assert [event["who"] for event in events] == ["bob", "alice"]


async def test_keys_are_the_callers_own(settings: Settings, file: Path) -> None:
    async with serving(settings, tokens=Tokens(file)) as rest:
        for name, token in (("one", "a-token"), ("two", "b-token")):
            headers = {**bearer(token), "Idempotency-Key": "same"}
            reply = await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG}, headers=headers)
            assert reply.status == 202


def test_the_file_is_read_again(file: Path) -> None:
    tokens = Tokens(file)
    file.write_text(line("carol", "c-token"))
    tokens.refresh()
    assert tokens.caller("Bearer a-token") is None
    assert tokens.caller("Bearer c-token") == Caller("carol", None)
    # As Kubernetes does it: another file is put in its place.
    other = file.with_name("other")
    other.write_text(line("dave", "d-token"))
    other.replace(file)
    tokens.refresh()
    assert tokens.caller("Bearer d-token") == Caller("dave", None)
    # A file that is wrong, or away, changes nobody; once it is right again, it counts.
    for wrong in ("nonsense", line("eve", "e-token") + "nonsense", "", "# nobody\n"):
        file.write_text(wrong)
        tokens.refresh()
        assert tokens.caller("Bearer d-token") == Caller("dave", None)
        assert tokens.caller("Bearer e-token") is None
    file.unlink()
    tokens.refresh()
    assert tokens.caller("Bearer d-token") == Caller("dave", None)
    file.write_text(line("eve", "e-token"))
    tokens.refresh()
    assert tokens.caller("Bearer e-token") == Caller("eve", None)
    assert tokens.caller("Bearer d-token") is None


def test_the_log_says_once_what_has_become_of_the_file(file: Path) -> None:
    """However often it is looked at, as it is every second."""
    tokens = Tokens(file)
    with structlog.testing.capture_logs() as logs:
        for content in ("nonsense", "# nobody\n", line("carol", "c-token")):
            file.write_text(content)
            for _ in range(3):
                tokens.refresh()
    assert [(each["log_level"], each.get("reason", "").partition(": ")[2]) for each in logs] == [
        ("error", "line 1 is not name:sha256-in-hexadecimal, or that with :callbacks behind it"),
        ("error", "it names nobody"),
        ("info", ""),
    ]


async def test_a_running_application_follows_the_file(
    settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landlord_api.auth.POLL", 0.02)
    async with serving(settings, tokens=Tokens(file)) as rest:
        await asyncio.to_thread(file.write_text, line("carol", "c-token"))
        for _ in range(200):
            reply = await rest.get("/api/tenants", headers=bearer("c-token"))
            if reply.status == 200:
                break
        assert reply.status == 200
        assert (await rest.get("/api/tenants", headers=bearer("a-token"))).status == 401


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("alice:abc", "line 1"),
        ("# x\nalice " + "0" * 64, "line 2"),
        (":" + "0" * 64, "line 1"),
        ("", "nobody"),
        ("alice:" + "g" * 64, "line 1"),
        ("alice:" + "0" * 64 + ":everything", "line 1"),
        ("alice:" + "0" * 64 + ":", "line 1"),
        ("alice:" + "0" * 64 + "\n\nbob:" + "0" * 64 + ":callbacks", "line 3 has the token of line 1"),
    ],
)
def test_a_wrong_file_at_the_start(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="LANDLORD_API_TOKENS_FILE") as raised:
        Tokens(path)
    assert why in str(raised.value)
    assert "0000" not in str(raised.value)


def test_no_text_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"alice:\xff")
    with pytest.raises(ConfigurationError, match=f"LANDLORD_API_TOKENS_FILE: {path} is not text"):
        Tokens(path)


def test_no_file_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        Tokens(tmp_path / "none")


async def test_request_ids(rest: Rest) -> None:
    for path in ("/api/tenants", "/api/nothing", "/healthz", "/api/docs"):
        first, second = await rest.get(path), await rest.get(path)
        assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
        own = await rest.get(path, headers={"X-Request-ID": "trace/1:a=b"})
        assert own.headers["X-Request-ID"] == "trace/1:a=b"
        for unsafe in ("a b", "x" * 129, "<script>", "ä"):
            reply = await rest.get(path, headers={"X-Request-ID": unsafe})
            assert reply.headers["X-Request-ID"] != unsafe
