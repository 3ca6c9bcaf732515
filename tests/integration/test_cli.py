"""The command line as users meet it: real processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import psycopg
import pytest
import yaml

LANDLORD = str(Path(sys.executable).parent / "landlord")
KUBECONFIG = """
current-context: away
contexts: [{name: away, context: {cluster: away, user: nobody}}]
clusters: [{name: away, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: nobody, user: {}}]
"""


async def _landlord(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    child = await _start(*arguments, **environment)
    out, err = await asyncio.wait_for(child.communicate(), 60)
    return child.returncode, out.decode(), err.decode()


async def _start(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LANDLORD_")}
    return await asyncio.create_subprocess_exec(
        LANDLORD,
        *arguments,
        env={**inherited, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_help_lists_commands_of_every_package() -> None:
    status, out, _ = await _landlord("--help")
    assert status == 0
    for command in ("api", "operator", "worker", "migrate", "config"):
        assert re.search(rf"^  {command} ", out, re.MULTILINE)


@pytest.mark.parametrize("unclear", ["me:hunter2@a:1,b:2", "me:p@hunter2@db"])
async def test_config_masks_secrets(tmp_path: Path, unclear: str) -> None:
    file = tmp_path / "landlord.yaml"
    file.write_text("worker_concurrency: 7\n")
    status, out, _ = await _landlord(
        "config",
        LANDLORD_CONFIG=str(file),
        LANDLORD_DATABASE_URL="postgresql://me:hunter2@db/landlord?password=hunter2",
        LANDLORD_WORKFLOW_LOCAL_URL=f"postgresql://{unclear}/landlord",
        LANDLORD_CALLBACK_TOKEN="hunter2",
    )
    values = yaml.safe_load(out)
    assert status == 0
    assert "hunter2" not in out
    assert values["database_url"] == "postgresql://me:***@db/landlord"
    assert (values["workflow_local_url"], values["callback_token"]) == ("***", "***")
    assert (values["worker_concurrency"], values["compute_providers"]) == (7, ["docker", "mock"])


async def test_a_wrong_configuration_is_one_line_and_exit_2() -> None:
    for arguments, environment, said in (
        (["config"], {"LANDLORD_NOPE": "1"}, "LANDLORD_NOPE"),
        (["config"], {"landlord_api_port": "77"}, "landlord_api_port"),
        (["config"], {"LANDLORD_EXECUTION_DEADLINE": "1e12"}, "LANDLORD_EXECUTION_DEADLINE"),
        (["config"], {"LANDLORD_COMPUTE_DEFAULT_PROVIDER": "x"}, "LANDLORD_COMPUTE_DEFAULT_PROVIDER (environment)"),
        (["worker"], {"LANDLORD_WORKFLOW_PROVIDER": "nope"}, "LANDLORD_WORKFLOW_PROVIDER"),
        (["migrate"], {"LANDLORD_DATABASE_URL": "hunter2"}, "LANDLORD_DATABASE_URL"),
    ):
        status, out, err = await _landlord(*arguments, **environment)
        assert (status, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert said in err
        assert "hunter2" not in err


async def test_what_cannot_be_migrated_is_one_line(test_database_url: str) -> None:
    with psycopg.connect(test_database_url, autocommit=True) as connection:
        connection.execute("update tenants_schema_version set version_num = '9999'")
    status, out, err = await _landlord("migrate", LANDLORD_DATABASE_URL=test_database_url)
    assert (status, out) == (1, "")
    assert re.fullmatch("Error: the tenants schema is at 9999, newer than this release .*: upgrade Landlord\n", err)


@pytest.mark.parametrize("command", ["worker", "controller", "operator"])
async def test_where_health_cannot_be_served_is_one_line_and_exit_2(command: str, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = await _landlord(command, KUBECONFIG=str(kubeconfig), LANDLORD_HEALTH_PORT=str(port))
    assert (status, out) == (2, "")
    (line,) = (line for line in err.splitlines() if not line.startswith("{"))  # beside the log
    said = f"landlord: LANDLORD_HEALTH_HOST, LANDLORD_HEALTH_PORT: cannot listen on 127.0.0.1:{port}: "
    assert line.startswith(said)


async def test_migrate_then_work(empty_database_url: str) -> None:
    environment = {
        "LANDLORD_DATABASE_URL": empty_database_url,
        "LANDLORD_COMPUTE_PROVIDERS": "mock",
        "LANDLORD_HEALTH_PORT": "0",
    }
    worker = await _start("worker", **environment)
    assert worker.stderr is not None
    address = None
    while address is None:
        line = (await asyncio.wait_for(worker.stderr.readline(), 30)).decode()
        if match := re.search(r'"port":(\d+)', line):
            address = f"http://127.0.0.1:{match[1]}"
    draining = asyncio.create_task(worker.stderr.read())
    async with aiohttp.ClientSession(address) as session:
        async with session.get("/readyz") as response:
            assert response.status == 503
            assert "landlord migrate" in (await response.json())["failed"][0]["reason"]
        results = await asyncio.gather(_landlord("migrate", **environment), _landlord("migrate", **environment))
        assert [status for status, _, _ in results] == [0, 0]
        async with asyncio.timeout(10):
            while True:
                async with session.get("/readyz") as response:
                    if response.status == 200:
                        break
                await asyncio.sleep(0.2)
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select count(*) from tenants").fetchone() == (0,)
        assert connection.execute("select count(*) from local_executions").fetchone() == (0,)
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker.wait(), 15) == 0
    await draining
