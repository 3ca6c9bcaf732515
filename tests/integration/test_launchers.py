"""The launchers of real components: starting, stopping, dying, and leaving nothing behind."""

from __future__ import annotations

import stat
from pathlib import Path

import aiohttp
import psycopg
import pytest
from fixtures.kubernetes import Kubectl, run_kubectl

from landlord.dev.controlplane import ControlPlane
from landlord.dev.postgres import PostgresServer


def test_a_fresh_database(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select current_database()").fetchone()[0].startswith("test_")


async def test_postgres_survives_a_crash_with_what_was_committed(own_postgres: PostgresServer) -> None:
    url = await own_postgres.create_database(name="landlord")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("create table kept as select 42 as answer")
    await own_postgres.kill()
    await own_postgres.start()
    async with await psycopg.AsyncConnection.connect(url) as connection:
        assert await (await connection.execute("select answer from kept")).fetchone() == (42,)


async def test_a_namespace_in_a_real_api_server(kubectl: Kubectl, namespace: str) -> None:
    assert await kubectl("get", "namespace", namespace, "-o", "name") == f"namespace/{namespace}\n"


async def test_the_api_server_goes_and_comes_back_with_its_data(own_control_plane: ControlPlane) -> None:
    plane = own_control_plane
    address = plane.server
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    status, _ = await plane.request("POST", "/api/v1/namespaces/default/serviceaccounts", body=account)
    assert status == 201

    await plane.stop_api()
    with pytest.raises(aiohttp.ClientConnectionError):
        await plane.request("GET", "/readyz")
    await plane.start_api()
    await plane.kill_api()
    await plane.start_api()

    assert plane.server == address
    status, _ = await plane.request("GET", "/api/v1/namespaces/default/serviceaccounts/robot")
    assert status == 200


async def test_a_kubeconfig_of_a_service_account_has_its_rights_only(
    own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    plane = own_control_plane
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    await plane.request("POST", "/api/v1/namespaces/default/serviceaccounts", body=account)
    path = await plane.service_account_kubeconfig(tmp_path / "robot.yaml", namespace="default", service_account="robot")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kubectl = plane.binaries.kubectl
    assert kubectl is not None
    who = await run_kubectl(kubectl, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", kubeconfig=path)
    assert who == "system:serviceaccount:default:robot"
    refused = await run_kubectl(kubectl, "get", "secrets", kubeconfig=path, check=False)
    assert "forbidden" in refused
