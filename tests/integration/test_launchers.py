"""The launchers of real components: starting, stopping, dying, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiodocker
import aiohttp
import psutil
import psycopg
import pytest
from fixtures.components import ROOT
from fixtures.docker import import_image
from fixtures.kubernetes import Kubectl, SharedControlPlane, run_kubectl
from fixtures.ports import free_port

from landlord.compute.providers.docker.container import FIRST_PORT
from landlord.dev import controlplane, docker, folders, kubernetes_binaries, ports, postgres, restate, system
from landlord.dev.controlplane import ControlPlane
from landlord.dev.docker import DockerEngine
from landlord.dev.postgres import PostgresServer
from landlord.dev.processes import LauncherError, start
from landlord.dev.service import Service
from landlord.dev.system import Options
from landlord.dev.watch import watching
from landlord.kubernetes import load_configuration


async def test_what_a_program_has_said_is_not_what_an_earlier_one_has(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for word in ("first", "second"):
        child = await start(["/bin/sh", "-c", f"echo {word}; exit 3"], name="program", log=log)
        await child.wait()
        assert str(child.end()) == f"program ended with status 3: {word}"
    assert log.read_text() == "first\nsecond\n"


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


async def test_an_engine_pulls_from_the_registry(docker_host: str, absent_image: str) -> None:
    async with aiodocker.Docker(url=docker_host) as client:
        with pytest.raises(aiodocker.DockerError):
            await client.images.inspect(absent_image)
        await client.images.pull(absent_image)
        assert absent_image in (await client.images.inspect(absent_image))["RepoTags"]


async def test_a_bridge_whose_launcher_was_killed_before_it_had_an_address_does_not_hinder_an_engine(
    own_docker: DockerEngine,
) -> None:
    await own_docker.kill()
    child = await asyncio.create_subprocess_exec("ip", "link", "add", own_docker._bridge, "type", "bridge")
    assert await child.wait() == 0
    await own_docker.start()
    assert await docker.ask(own_docker.host) is not None


async def test_a_killed_engine_takes_its_containers_along_and_comes_back_with_them(own_docker: DockerEngine) -> None:
    image = await import_image(own_docker.host)
    ports = {"ExposedPorts": {"8080/tcp": {}}}
    host = {
        "RestartPolicy": {"Name": "always"},
        "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
    }
    async with aiodocker.Docker(url=own_docker.host) as client:
        container = await client.containers.run({"Image": image, "HostConfig": host, **ports})
        assert await _healthz(container) == "ok\n"
    assert own_docker.pid is not None
    inside = psutil.Process(own_docker.pid).children(recursive=True)
    assert any("httpd" in process.name() or "sh" in process.name() for process in inside)

    await own_docker.kill()
    _, alive = psutil.wait_procs(inside, timeout=3)
    assert not alive

    await own_docker.start()
    async with aiodocker.Docker(url=own_docker.host) as client:
        assert await _healthz(client.containers.container(container.id)) == "ok\n"


async def _healthz(container: aiodocker.containers.DockerContainer) -> str:
    """What it serves on its published port, once it does."""
    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        while True:
            try:
                bindings = (await container.show())["NetworkSettings"]["Ports"]["8080/tcp"]
                async with session.get(f"http://127.0.0.1:{bindings[0]['HostPort']}/healthz") as response:
                    return await response.text()
            except (aiohttp.ClientError, LookupError, TypeError):
                await asyncio.sleep(0.05)


ORPHANS = """
import asyncio, sys
from pathlib import Path
from landlord.compute.providers.docker.container import FIRST_PORT
from landlord.dev import controlplane, docker, kubernetes_binaries, ports, postgres, restate, system

async def main(state):
    async with postgres.running(state=state) as server, docker.running(state=state) as engine, \\
            controlplane.running(binaries=kubernetes_binaries.find(), state=state, controllers=True):
        sys.stdout.write("running\\n")
        sys.stdout.flush()
        await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1])))
"""


def _family(pid: int) -> list[psutil.Process]:
    members = psutil.Process(pid).children(recursive=True)
    return [member for member in members if member.is_running()]


async def test_nothing_outlives_a_killed_parent(
    component_folder: Path, own_docker: DockerEngine, control_plane: SharedControlPlane
) -> None:
    """The last two arguments only show that this machine has those components."""
    state = component_folder / "state"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ORPHANS, str(state), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"running\n"
        expected = {"postgres", "etcd", "kube-apiserver", "kube-controller-manager", "dockerd", "containerd"}
        for _ in range(200):  # the last one may not have become its program yet
            if expected <= {member.name() for member in _family(process.pid)}:
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail(f"not all of {expected} run")
        family = _family(process.pid)
    finally:
        process.kill()
        await process.wait()
    _, alive = psutil.wait_procs(family, timeout=3)
    assert [member for member in alive if member.status() != psutil.STATUS_ZOMBIE] == []
    binaries = kubernetes_binaries.find()
    assert binaries is not None
    # All come back on what was left, and remove it.
    async with (
        postgres.running(state=state) as server,
        docker.running(state=state) as engine,
        controlplane.running(binaries=binaries, state=state) as plane,
    ):
        assert None not in (server.pid, engine.pid, plane.api_pid)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


async def test_an_api_server_whose_port_is_taken_goes_to_another(
    own_control_plane: ControlPlane, taken_port: int
) -> None:
    await own_control_plane.stop_api()
    (own_control_plane.kubeconfig.parent / "kubernetes" / "port").write_text(str(taken_port))
    await own_control_plane.start_api()
    assert own_control_plane.port != taken_port
    assert (await own_control_plane.request("GET", "/readyz"))[0] == 200
    assert own_control_plane.server in own_control_plane.kubeconfig.read_text()


async def test_a_restate_server_whose_port_is_taken_goes_to_another(
    restate_server: object, component_folder: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = itertools.chain([free_port(), taken_port], iter(free_port, None))
    monkeypatch.setattr(restate, "free_port", lambda: next(given))
    async with restate.running(state=component_folder) as server:
        assert await server.ready()


@pytest.fixture
def nothing_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder for temporary files, ours and our children's, is empty in the end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("restate_server", "nothing_temporary")
async def test_a_restate_server_leaves_no_temporary_file(component_folder: Path) -> None:
    async with restate.running(state=component_folder) as server:
        assert await server.ready()


@pytest.mark.usefixtures("nothing_temporary")
async def test_an_engine_leaves_no_temporary_file(own_docker: DockerEngine) -> None:
    assert own_docker.pid is not None
    inside = psutil.Process(own_docker.pid).children(recursive=True)
    containerd = next(each for each in inside if each.name() == "containerd")
    containerd.send_signal(signal.SIGUSR1)  # as dockerd's where it does not answer: it writes down what it does
    written = Path(own_docker.host.removeprefix("unix://")).parent
    async with asyncio.timeout(10):
        while not list(written.glob("containerd.*.stacks.log")):
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("nothing_temporary")
async def test_a_client_of_the_api_server_writes_no_certificate_of_its_own(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    assert (await load_configuration(None)).ssl_ca_cert


async def test_a_process_of_ours_whose_port_is_taken_goes_to_another(
    database_url: str, tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([taken_port, free_port()])
    monkeypatch.setattr(system, "free_port", lambda: next(given))
    options = Options(port=1, state=tmp_path, workflow="local", compute="mock", kubernetes="off", reset=False)
    async with AsyncExitStack() as stack, watching(say=lambda _: None) as watch:
        environment = {"LANDLORD_DATABASE_URL": database_url}
        parts = system._Parts(
            options=options, stack=stack, watch=watch, environment=environment, logs=tmp_path, say=lambda _: None
        )
        controller = await parts.background("controller")
        assert not controller.address.endswith(f":{taken_port}")
        assert await controller.ready()


async def test_somebody_elses_answer_is_not_taken_for_that_of_a_process_of_ours(
    database_url: str, tmp_path: Path
) -> None:
    """It may have taken the port after the last look at it; ours has not come so far yet, and never will."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    port = free_port()
    stranger = await asyncio.start_server(answer, "127.0.0.1", port)
    environment = {**os.environ, "LANDLORD_DATABASE_URL": database_url, "LANDLORD_HEALTH_PORT": str(port)}
    service = Service("controller", port=port, environment=environment, log=tmp_path / "controller.log", nice=0)
    try:
        with pytest.raises(LauncherError, match="address already in use"):
            await service.start()
    finally:
        await service.stop()
        stranger.close()


async def test_a_port_that_cannot_be_had_is_not_tried_for_ever(taken_port: int) -> None:
    tries = 0

    async def start() -> None:
        nonlocal tries
        tries += 1
        raise LauncherError(f"bind 127.0.0.1:{taken_port}: address already in use")

    with pytest.raises(LauncherError, match="already in use"):
        await ports.on_free_port(start)
    assert tries == ports.ATTEMPTS


def test_every_port_is_given_once() -> None:
    """And none that a container or the system would give to a connection."""
    given = [ports.free_port() for _ in range(50)]
    assert len(set(given)) == len(given)
    assert max(given) < FIRST_PORT


def test_a_port_that_is_kept_is_given_to_nobody() -> None:
    few = ports.Ports(range(16_000, 16_020))
    kept = {16_003, 16_017}
    for port in (*kept, 9080):
        few.keep(port)
    given = set()
    with pytest.raises(LauncherError, match="every port from 16000 to 16019 is taken"):
        while True:
            given.add(few.free())
    assert given
    assert not given & kept


async def test_the_port_of_the_api_is_given_to_nothing_that_starts_before_it(
    database_url: str, component_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDLORD_DATABASE_URL", database_url)
    monkeypatch.setattr(random, "shuffle", list.sort)
    port = free_port()
    last = ports.Ports(range(port - 10, port + 1))  # the last of them is given first
    monkeypatch.setattr(system, "free_port", last.free)
    monkeypatch.setattr(system, "keep_port", last.keep)
    options = Options(
        port=port, state=component_folder, workflow="local", compute="mock", kubernetes="off", reset=False
    )
    async with system.running(options, say=lambda _: None) as started:
        assert started.url.endswith(f":{port}")
        assert port not in {last.free() for _ in range(5)}


def test_the_address_that_runs_go_on_at_is_given_to_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a state folder that was there before."""
    few = ports.Ports(range(16_000, 16_003))
    monkeypatch.setattr(restate, "keep_port", few.keep)
    (tmp_path / "restate-worker-port").write_text("16001")
    assert restate.worker_port(state=tmp_path) == 16001
    given = []
    with pytest.raises(LauncherError, match="is taken"):
        while True:
            given.append(few.free())
    assert 16001 not in given


async def test_a_state_folder_is_used_by_one_process_at_a_time(component_folder: Path) -> None:
    async with postgres.running(state=component_folder):
        with pytest.raises(LauncherError, match="in use by another process"):
            async with postgres.running(state=component_folder):
                pass


async def test_data_move_where_postgres_cannot_reach_the_state_folder(component_folder: Path) -> None:
    shut = component_folder / "shut"
    shut.mkdir(mode=0o700)
    state = shut / "state"
    try:
        async with postgres.running(state=state) as server:
            # Only root gives Postgres to another user.
            assert server.moved == (os.geteuid() == 0)
            assert server.data.is_relative_to(postgres.moved_data(state=state) if server.moved else state)
        assert stat.S_IMODE(shut.stat().st_mode) == 0o700
        state = state.rename(shut / "renamed")
        async with postgres.running(state=state) as again:
            assert again.moved == (os.geteuid() == 0)
            assert not again.moved or again.data == server.data
            copy = shutil.copytree(state, shut / "copy")
            if again.moved:
                with pytest.raises(LauncherError, match="in use by another process"):
                    async with postgres.running(state=copy):
                        pass
    finally:
        postgres.discard(state=state)
    assert not postgres.moved_data(state=state).exists()


def test_the_identity_of_a_state_goes_with_its_folder(tmp_path: Path) -> None:
    """Its path may be another state's afterwards."""
    name = folders.identity(tmp_path / "state")
    (tmp_path / "state").rename(tmp_path / "renamed")
    assert folders.identity(tmp_path / "renamed") == name
    assert folders.identity(tmp_path / "state") != name


def test_a_state_of_an_earlier_release_keeps_the_identity_that_it_had(tmp_path: Path) -> None:
    """Its tenants carry it: what stood for the path."""
    (tmp_path / "logs").mkdir()
    assert folders.identity(tmp_path) == folders.digest(tmp_path)


FAKE_GO = """#!/bin/sh
case "$*" in *" -o "*) ;; *) exit ;; esac  # what is compiled ahead has no result of its own
sleep 0.5
while [ "$1" != -o ]; do shift; done
folder=$2
shift 2
echo "$@" >> "$BUILDS"
for package in "$@"; do name="${package%/v3}"; echo > "$folder/${name##*/}"; done
"""


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A stand-in for Go that only counts: `make setup` runs the real build, which takes minutes. Gives the builds."""
    builds = tmp_path / "builds"
    (tmp_path / "go").write_text(FAKE_GO)
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDS", str(builds))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return lambda: builds.read_text().splitlines()


def built() -> set[str]:
    """What there is in the cache, finished or not."""
    return {str(path.relative_to(kubernetes_binaries.cache())) for path in kubernetes_binaries.cache().rglob("*")}


async def test_two_processes_that_want_the_control_plane_build_it_once(fake_go: Callable[[], list[str]]) -> None:
    command = [sys.executable, "-m", "landlord.dev.kubernetes_binaries"]
    both = [await asyncio.create_subprocess_exec(*command, cwd=ROOT) for _ in range(2)]
    assert [await process.wait() for process in both] == [0, 0]
    assert len(fake_go()) == 1
    assert built() == set(kubernetes_binaries.PACKAGES)
    assert {path.suffix for path in kubernetes_binaries.cache().parent.iterdir()} == {"", ".lock"}


async def test_a_cluster_does_not_wait_for_what_it_does_without(fake_go: Callable[[], list[str]]) -> None:
    """Compiling kubectl and the controllers takes minutes on top."""
    said: list[str] = []
    found = await kubernetes_binaries.find_or_build(progress=said.append)
    assert built() == {"etcd", "kube-apiserver"}
    assert (found.etcd, found.kube_controller_manager) == (kubernetes_binaries.cache() / "etcd", None)
    for _ in range(2):
        found = await kubernetes_binaries.find_or_build("kubectl", progress=said.append)
        assert found.kubectl == kubernetes_binaries.cache() / "kubectl"
    assert fake_go() == [
        "go.etcd.io/etcd/server/v3 k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kubectl",
    ]
    assert "built: etcd, kube-apiserver" in said


async def test_a_build_that_fails_leaves_nothing_half_done(fake_go: Callable[[], list[str]], tmp_path: Path) -> None:
    (tmp_path / "go").write_text("#!/bin/sh\necho no such module\nexit 3\n")
    with pytest.raises(LauncherError, match="status 3: no such module"):
        await kubernetes_binaries.find_or_build(progress=lambda _: None)
    assert built() == set()
    (tmp_path / "go").write_text(FAKE_GO)
    assert (await kubernetes_binaries.find_or_build(progress=lambda _: None)).etcd.exists()


@pytest.mark.parametrize(
    "obtain", [partial(kubernetes_binaries.find_or_build, progress=lambda _: None), restate.find_or_install]
)
async def test_a_cache_that_cannot_be_written_is_said(
    obtain: Callable[[], Awaitable[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("go", "npm"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    for variable in ("KUBEBUILDER_ASSETS", restate.VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(LauncherError, match="cannot use /proc/nowhere"):
        await obtain()


async def test_what_is_watched_must_not_end_by_itself() -> None:
    child = await start(["sleep", "60"], name="sleep")
    said: list[str] = []
    with pytest.raises(LauncherError, match="sleep ended with status -9"):
        async with watching(say=said.append) as watch:
            watch(child)
            os.kill(child.pid, signal.SIGKILL)
            await asyncio.sleep(10)
    assert said == ["sleep has ended: stopping everything"]


async def test_what_was_watched_may_be_stopped() -> None:
    child = await start(["sleep", "60"], name="sleep")
    async with watching(say=lambda _: None) as watch:
        watch(child)
    assert child.returncode is None
    await child.stop()


async def test_children_start_from_the_main_thread_only() -> None:
    """The kernel ends them with the thread that started them."""
    with pytest.raises(RuntimeError, match="main thread"):
        await asyncio.to_thread(asyncio.run, start(["true"], name="true"))
