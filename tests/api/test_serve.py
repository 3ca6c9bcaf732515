"""How the process starts, listens and ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest
from fixtures.rest import listening, serving, unique
from pydantic import SecretStr

from landlord.settings import LONGEST, ConfigurationError, Settings
from landlord.workflow.client import WorkflowClient
from landlord.workflow.provider import TriggerResult, WorkflowRequest
from landlord.workflow.providers.mock import MockProvider, Stay
from landlord_api.server import loopback

CONFIG = {"image": "app:1"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Whatever cluster the machine has is none of our business."""
    return settings.model_copy(update={"kubernetes_mirror": False})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert loopback(host) is expected


async def test_listening_beyond_loopback_needs_tokens(settings: Settings, tmp_path: Path) -> None:
    beyond = settings.model_copy(update={"api_host": "0.0.0.0", "api_port": 0, "workflow_provider": "mock"})
    with pytest.raises(ConfigurationError, match="LANDLORD_API_TOKENS_FILE"):
        async with listening(beyond):
            pass
    file = tmp_path / "tokens"
    await asyncio.to_thread(file.write_text, f"ci:{hashlib.sha256(b'secret').hexdigest()}")
    async with listening(beyond.model_copy(update={"api_tokens_file": file})):
        pass


async def test_a_port_that_is_taken(settings: Settings) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    own = settings.model_copy(update={"api_port": port, "workflow_provider": "mock"})
    with pytest.raises(ConfigurationError, match=f"LANDLORD_API_PORT: cannot listen on 127.0.0.1:{port}"):
        async with listening(own):
            pass
    server.close()
    await server.wait_closed()


async def test_expectations(settings: Settings) -> None:
    """One is met; the others are passed over, on a path that leads nowhere too."""
    own = settings.model_copy(update={"api_port": 0, "workflow_provider": "mock"})
    async with listening(own) as url, aiohttp.ClientSession(url) as session:
        for path, status in (("/healthz", 200), ("/api/tenants", 200), ("/nowhere", 404)):
            async with session.get(path, headers={"Expect": "the unexpected"}) as answer:
                assert (answer.status, answer.headers["Server"]) == (status, "landlord")
                assert answer.headers["X-Request-ID"]
        body = {"id": unique(), "compute_config": CONFIG}
        async with session.post("/api/tenants", json=body, expect100=True) as answer:  # waits for the 100
            assert answer.status == 202


class Slow(MockProvider):
    """Takes its time for a trigger."""

    def __init__(self) -> None:
        super().__init__()
        self.default = Stay()
        self.asked = asyncio.Event()

    async def trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        self.asked.set()
        await asyncio.sleep(1)
        return await super().trigger(request, timeout=timeout)


async def test_what_was_accepted_is_finished(settings: Settings) -> None:
    engine = Slow()
    own = settings.model_copy(update={"api_port": 0})
    async with WorkflowClient(engine, trigger_timeout=5) as client, aiohttp.ClientSession() as session:
        async with asyncio.timeout(15), listening(own, client=client) as url:
            idle = await session.get(f"{url}/healthz")
            assert idle.status == 200
            body = {"id": unique(), "compute_config": CONFIG}
            post = asyncio.create_task(session.post(f"{url}/api/tenants", json=body))
            await engine.asked.wait()
        answer = await post
        assert answer.status == 202
        assert (await answer.json())["workflow_execution_id"] == f"tenant-{body['id']}-plan"
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"{url}/healthz")


@pytest.mark.parametrize(
    "sent",
    [
        b"hunter2 is no HTTP\r\n\r\n",
        b"HUNTER2 /api/tenants HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hunter2\r\n\r\n",  # TLS
        b"GET /api/tenants HTTP/1.1\r\nhunter2\r\n\r\n",
        b"GET /api/tenants HTTP/1.1\r\nHost: a\r\nX: \x00hunter2\r\n\r\n",
        b"POST /api/tenants HTTP/1.1\r\nHost: a\r\nContent-Length: hunter2\r\n\r\n",
        b"POST /api/tenants HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/tenants HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nhunter2\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_problem_too(settings: Settings, sent: bytes) -> None:
    assert (await refused(settings, sent)) == (400, "this is no HTTP/1.1 request that is understood here")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /api/tenants?hunter2=%s HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET http://a/api/tenants?hunter2=%s HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /api/tenants HTTP/1.1\r\nHost: a\r\nX: hunter2%s\r\n\r\n", 431),
        (b"GET /api/tenants HTTP/1.1\r\nHost: a\r\nhunter2%s: x\r\n\r\n", 431),
    ],
)
async def test_a_head_that_is_too_large(settings: Settings, head: bytes, status: int) -> None:
    """RFC 9112, 3, and RFC 6585, 5."""
    assert (await refused(settings, head % (10_000 * b"a")))[0] == status


async def refused(settings: Settings, sent: bytes) -> tuple[int, str]:
    """Status and detail of the problem that it is answered, and with which the connection ends."""
    own = settings.model_copy(update={"api_port": 0, "workflow_provider": "mock"})
    async with listening(own) as url, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(sent)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")  # to its end: the connection is closed
        writer.close()
        await writer.wait_closed()
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Server"] == "landlord"
    problem = orjson.loads(body)
    assert problem.keys() == {"type", "title", "status", "detail", "errors", "request_id"}
    assert (problem["status"], problem["request_id"]) == (int(status.split()[1]), headers["X-Request-ID"])
    assert b"hunter2" not in body
    return problem["status"], problem["detail"]


@contextlib.asynccontextmanager
async def process(**environment: str) -> AsyncIterator[Process]:
    """``landlord api`` itself."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LANDLORD_")}
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from landlord.cli.main import main; main()",
        "api",
        env={
            **inherited,
            "LANDLORD_API_PORT": "0",
            "LANDLORD_COMPUTE_PROVIDERS": "mock",
            "KUBECONFIG": os.devnull,
            **environment,
        },
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def test_the_command(database_url: str) -> None:
    async with process(LANDLORD_DATABASE_URL=database_url, LANDLORD_LOG_LEVEL="info") as api:
        assert api.stderr is not None
        async with asyncio.timeout(60):
            while (line := orjson.loads(await api.stderr.readline()))["event"] != "started":
                pass
        async with aiohttp.ClientSession() as session:
            body = {"id": unique(), "compute_config": {"env": {"PASSWORD": "hunter2"}}}
            async with session.post(f"{line['url']}/api/tenants", json=body) as answer:
                assert answer.status == 202
            async with session.get(f"{line['url']}/readyz") as answer:
                assert (await answer.json())["status"] == "ok"
            async with session.get(f"{line['url']}/metrics") as answer:
                shown = await answer.text()
        assert "landlord_requests_accepted_total" in shown
        assert "landlord_workflow_engine_up" not in shown, "only who reconciles knows"
        assert "landlord_oldest_unconverged_seconds" not in shown
        api.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            _, rest = await api.communicate()
        assert api.returncode == 0
        assert b"hunter2" not in rest
        assert orjson.loads(rest.splitlines()[-1])["event"] == "stopped"


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"LANDLORD_API_HOST": "0.0.0.0"}, b"LANDLORD_API_TOKENS_FILE"),
        ({"LANDLORD_API_TOKENS_FILE": "/nowhere/tokens"}, b"LANDLORD_API_TOKENS_FILE"),
        ({"LANDLORD_API_PORT": "high"}, b"LANDLORD_API_PORT"),
        ({"LANDLORD_API_PROT": "1"}, b"LANDLORD_API_PROT"),
        ({"LANDLORD_WORKFLOW_PROVIDER": "nobody"}, b"LANDLORD_WORKFLOW_PROVIDER"),
        ({"LANDLORD_DATABASE_URL": "nonsense"}, b"LANDLORD_DATABASE_URL"),
        ({"LANDLORD_KUBERNETES_CONTEXT": "nowhere"}, b"LANDLORD_KUBERNETES_CONTEXT"),
    ],
)
async def test_wrong_configuration_is_one_line(environment: dict[str, str], key: bytes) -> None:
    async with process(**environment) as api, asyncio.timeout(60):
        _, errors = await api.communicate()
    assert api.returncode == 2
    assert key in errors
    assert len([line for line in errors.splitlines() if not line.startswith(b"{")]) == 1  # beside the log


async def test_the_longest_durations_are_carried_out(settings: Settings) -> None:
    longest = dict.fromkeys(("execution_deadline", "tombstone_retention", "idempotency_retention"), LONGEST)
    async with serving(settings.model_copy(update=longest)) as rest:
        name = await rest.deleted()
        assert (await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})).status == 202


async def test_it_serves_while_postgres_is_away(settings: Settings) -> None:
    own = settings.model_copy(
        update={
            "api_port": 0,
            "workflow_provider": "mock",
            "database_url": SecretStr("postgresql://nobody@127.0.0.1:1/none"),
        }
    )
    async with listening(own) as url, aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as answer:
        assert answer.status == 503
