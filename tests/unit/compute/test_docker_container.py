"""From configuration to the Engine API's body: units, names, claims."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landlord.compute.config import with_defaults
from landlord.compute.provider import ComputeSpec
from landlord.compute.providers.docker import DockerProvider, container
from landlord.settings import Settings

DOCKER = DockerProvider(settings=Settings())
LABEL = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?\Z")


def body(*, generation: int = 1, turn: int = 0, address: str = "127.0.0.1", **config: Any) -> dict[str, Any]:
    full = with_defaults(DOCKER, {"image": "nginx:1", **config})
    spec = ComputeSpec(tenant_id="acme", generation=generation, attempt=1, config=full)
    return container.create_body(spec=spec, config=full, installation="here", publish_address=address, turn=turn)


@given(cpu=st.integers(10, 64_000), memory=st.integers(6, 10**6))
def test_units(cpu: int, memory: int) -> None:
    host = body(resources={"cpu_millicores": cpu, "memory_mb": memory, "pids": 7})["HostConfig"]
    assert host["NanoCpus"] == cpu * 10**6  # 1000 thousandths are one CPU, which is 10^9
    assert host["Memory"] == host["MemorySwap"] == memory * 1024 * 1024
    assert host["PidsLimit"] == 7


def test_a_bare_image_gets_no_limits_and_no_rights() -> None:
    made = body()
    assert (made["Image"], made["Env"], made["StopTimeout"]) == ("nginx:1", [], 10)
    assert not {"Cmd", "Entrypoint", "User", "Healthcheck"} & made.keys()
    host = made["HostConfig"]
    assert not {"NanoCpus", "Memory", "PidsLimit"} & host.keys()
    assert host["RestartPolicy"] == {"Name": "unless-stopped"}
    assert (host["Init"], host["ReadonlyRootfs"], host["Privileged"]) == (False, False, False)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["NetworkMode"] == "bridge"


def test_everything_a_tenant_says_is_asked_of_the_engine() -> None:
    made = body(
        command=["serve", "--all"],
        entrypoint=["/app"],
        env={"B": "2", "A": "1"},
        ports=[{"container_port": 80, "scheme": "http", "name": "web"}, {"container_port": 53, "protocol": "udp"}],
        restart_policy="on-failure",
        stop_timeout_seconds=7,
        init=True,
        network="shared",
        user="1000:1000",
        read_only=True,
        privileged=True,
    )
    fields = ("Cmd", "Entrypoint", "Env", "StopTimeout", "User")
    assert [made[field] for field in fields] == [["serve", "--all"], ["/app"], ["A=1", "B=2"], 7, "1000:1000"]
    assert json.loads(made["Labels"]["landlord.dev/ports"]) == {
        "80/tcp": {"name": "web", "scheme": "http"},
        "53/udp": {"name": "53-udp", "scheme": "udp"},
    }
    host = made["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "on-failure"}
    assert (host["Init"], host["NetworkMode"], host["ReadonlyRootfs"], host["Privileged"]) == (
        True,
        "shared",
        True,
        True,
    )
    assert "SecurityOpt" not in host


def test_labels_are_ours_whatever_the_tenant_says() -> None:
    labels = body(generation=3, labels={"landlord.dev/tenant-id": "other", "team": "a"})["Labels"]
    assert labels["landlord.dev/tenant-id"] == "acme"
    assert labels["landlord.dev/installation"] == "here"
    assert labels["landlord.dev/generation"] == "3"
    assert labels["landlord.dev/restart-policy"] == "unless-stopped"
    assert labels["team"] == "a"


def test_health_checks() -> None:
    check = {"test": "true", "interval_seconds": 0.25, "timeout_seconds": 2, "retries": 4, "start_period_seconds": 1}
    assert body(health_check=check)["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"],
        "Interval": 250_000_000,
        "Timeout": 2_000_000_000,
        "Retries": 4,
        "StartPeriod": 1_000_000_000,
    }
    for test, expected in (
        (["/check", "-x"], ["CMD", "/check", "-x"]),
        (["CMD", "/check"], ["CMD", "/check"]),
        (["NONE"], ["NONE"]),
    ):
        assert body(health_check={"test": test})["Healthcheck"]["Test"] == expected
    assert body(health_check={"test": "true"})["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"],
        "Interval": 5_000_000_000,
        "Timeout": 5_000_000_000,
        "Retries": 3,
        "StartPeriod": 0,
    }
    kind, command = body(health_check={"http": {"port": 8080, "path": "/healthz?a=1&b=2"}})["Healthcheck"]["Test"]
    assert kind == "CMD-SHELL"
    assert command.count("'http://127.0.0.1:8080/healthz?a=1&b=2'") == 2
    assert "'http://127.0.0.1:80/'" in body(health_check={"http": {"port": 80}})["Healthcheck"]["Test"][1]


def test_ports_are_published_where_the_installation_says_and_stay_the_same() -> None:
    ports = [{"container_port": 80, "host_port": 8080}, {"container_port": 53, "protocol": "udp"}]
    made = body(ports=ports, address="10.0.0.1")
    assert made["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    bindings = made["HostConfig"]["PortBindings"]
    assert bindings["80/tcp"] == [{"HostIp": "10.0.0.1", "HostPort": "8080"}]
    (chosen,) = bindings["53/udp"]
    assert 20000 <= int(chosen["HostPort"]) < 32768
    assert body(ports=ports, address="10.0.0.1") == made
    assert body(ports=ports, turn=1)["HostConfig"]["PortBindings"]["53/udp"] != bindings["53/udp"]


@pytest.mark.parametrize(
    ("ports", "port", "expected"),
    [
        ([{}, {"host_port": 8080}], 8080, False),
        ([{}, {"host_port": 8080}], 20001, True),
        ([{}, {"host_port": 8080}], None, False),
        ([{}, {}], None, True),
        ([{}, {}], 20001, True),
        ([{"host_port": 53}, {"host_port": 53, "protocol": "udp"}], 53, False),
        ([{"host_port": 8080}], None, False),
    ],
)
def test_whose_choice_a_port_was(ports: list[dict[str, Any]], port: int | None, expected: bool) -> None:
    config = {"network": "bridge", "ports": [{"container_port": 80, **each} for each in ports]}
    assert container.chose(port, config=config) is expected
    assert not container.chose(port, config={**config, "network": "host"})


@given(count=st.integers(1, 64), turn=st.integers(0, 3))
def test_chosen_ports_differ(count: int, turn: int) -> None:
    ports: list[dict[str, Any]] = [{"container_port": 1000 + index} for index in range(count)]
    ports[0]["host_port"] = 20000
    bindings = body(ports=ports, turn=turn)["HostConfig"]["PortBindings"]
    assert len({binding[0]["HostPort"] for binding in bindings.values()}) == count


def test_nothing_is_published_in_the_hosts_network() -> None:
    made = body(network="host", ports=[{"container_port": 80}])
    assert made["HostConfig"]["PortBindings"] == {}
    assert container.claims(made["HostConfig"]) == {"network host"}


def test_mounts() -> None:
    host = body(
        volumes=[
            {"name": "data", "target": "/data"},
            {"source": "/srv/shared", "target": "/shared", "read_only": True},
        ],
        tmpfs=[{"target": "/tmp", "size_mb": 16}, {"target": "/run"}],
    )["HostConfig"]
    named, bound = host["Mounts"]
    assert named["Source"] == "landlord-here.acme.data"
    assert (named["Type"], named["Target"], named["ReadOnly"]) == ("volume", "/data", False)
    assert named["VolumeOptions"]["Labels"] == {
        "landlord.dev/tenant-id": "acme",
        "landlord.dev/installation": "here",
        "landlord.dev/generation": "1",
    }
    assert bound == {"Type": "bind", "Source": "/srv/shared", "Target": "/shared", "ReadOnly": True}
    assert host["Tmpfs"] == {"/tmp": "size=16m", "/run": ""}


def test_containers_that_share_what_only_one_can_have() -> None:
    def claims(**config: Any) -> frozenset[str]:
        return container.claims(body(**config)["HostConfig"])

    fixed = {"ports": [{"container_port": 80, "host_port": 8080}]}
    data = {"volumes": [{"name": "data", "target": "/data"}]}
    assert claims(generation=1, **fixed) & claims(generation=2, **fixed)
    assert claims(generation=1, **data) & claims(generation=2, **data)
    free = {"ports": [{"container_port": 80}]}
    assert not claims(generation=1, **free) & claims(generation=2, **free)
    assert not claims(volumes=[{"source": "/srv", "target": "/a", "read_only": True}])
    udp = {"ports": [{"container_port": 80, "host_port": 8080, "protocol": "udp"}]}
    assert not claims(**fixed) & claims(**udp)


def test_the_hash_tells_configurations_apart_and_nothing_else() -> None:
    one = container.config_hash({"image": "a", "env": {"A": "1", "B": "2"}})
    assert one == container.config_hash({"env": {"B": "2", "A": "1"}, "image": "a"})
    assert one != container.config_hash({"image": "a", "env": {"A": "1", "B": "3"}})
    assert container.config_hash({"n": 1.0}) == container.config_hash({"n": 1})


@given(first=st.tuples(LABEL, LABEL, st.integers(1, 99)), second=st.tuples(LABEL, LABEL, st.integers(1, 99)))
def test_names_are_unique(first: tuple[str, str, int], second: tuple[str, str, int]) -> None:
    def name(of: tuple[str, str, int]) -> str:
        return container.container_name(installation=of[0], tenant_id=of[1], generation=of[2], digest="0" * 32)

    assert (name(first) == name(second)) is (first == second)
