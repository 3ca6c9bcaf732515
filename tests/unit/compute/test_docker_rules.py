"""What an installation allows its tenants."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landlord.compute.providers.docker import rules
from landlord.settings import Settings

OPEN = Settings(
    docker_allow_volumes=("/srv/tenants/", "/data"),
    docker_allow_host_network=True,
    docker_allow_privileged=True,
    docker_networks=("shared",),
)
STRICT = Settings()


def paths(config: dict[str, Any], settings: Settings) -> list[str]:
    return [fault.path for fault in rules.check(config, settings=settings)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data", True),
        ("/data/", True),
        ("/data/a/b", True),
        ("//data//a", True),
        ("/data/./a", True),
        ("/srv/tenants/x", True),
        ("/srv/tenants", True),
        ("/database", False),
        ("/srv", False),
        ("/", False),
        ("/data/..", False),
        ("/data/../etc", False),
        ("/data/a/../b", False),
        ("data", False),
        ("", False),
    ],
)
def test_host_paths(path: str, expected: bool) -> None:
    assert rules.allowed(path, prefixes=OPEN.docker_allow_volumes) is expected
    assert not rules.allowed(path, prefixes=())
    assert not rules.allowed(path, prefixes=("data", "srv/tenants", ""))


@given(parts=st.lists(st.sampled_from(["..", ".", "", "data", "etc", "..."]), max_size=6))
def test_no_spelling_leaves_the_allowed_directory(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    resolved: list[str] = []
    for part in parts:
        if part == "..":
            resolved = resolved[:-1]
        elif part not in (".", ""):
            resolved.append(part)
    if rules.allowed(path, prefixes=("/data",)):
        assert resolved[:1] == ["data"]
    elif ".." not in parts:
        assert resolved[:1] != ["data"]


@pytest.mark.parametrize(
    ("config", "faults"),
    [
        ({"volumes": [{"source": "/data/a", "target": "/a"}]}, ["/volumes/0/source"]),
        ({"network": "host"}, ["/network"]),
        ({"network": "shared"}, ["/network"]),
        ({"network": "container:other"}, ["/network"]),
        ({"privileged": True}, ["/privileged"]),
    ],
)
def test_host_access_is_refused_by_default(config: dict[str, Any], faults: list[str]) -> None:
    assert paths(config, STRICT) == faults
    assert paths(config, OPEN) == ([] if config.get("network") != "container:other" else faults)


@pytest.mark.parametrize(
    ("config", "settings", "options"),
    [
        ({"volumes": [{"source": "/etc", "target": "/a"}]}, STRICT, "no host path"),
        ({"volumes": [{"source": "/etc", "target": "/a"}]}, OPEN, "/srv/tenants/, /data"),
        ({"network": "other"}, OPEN, "bridge, none, shared, host"),
    ],
)
def test_what_is_refused_says_what_is_allowed(config: dict[str, Any], settings: Settings, options: str) -> None:
    (fault,) = rules.check(config, settings=settings)
    assert fault.message == f"is not allowed by this installation; allowed: {options}"


def test_listing_host_as_a_network_does_not_allow_it() -> None:
    assert paths({"network": "host"}, Settings(docker_networks=("host",))) == ["/network"]


@pytest.mark.parametrize(
    ("config", "faults"),
    [
        ({"ports": [{"container_port": 80}, {"container_port": 80, "protocol": "udp"}]}, []),
        ({"ports": [{"container_port": 80}, {"container_port": 80, "protocol": "tcp"}]}, ["/ports/1/container_port"]),
        (
            {"ports": [{"container_port": 1, "host_port": 9}, {"container_port": 2, "host_port": 9}]},
            ["/ports/1/host_port"],
        ),
        ({"ports": [{"container_port": 1, "name": "a"}, {"container_port": 2, "name": "a"}]}, ["/ports/1/name"]),
        ({"network": "none"}, []),
        ({"network": "none", "ports": [{"container_port": 80}]}, ["/ports"]),
        ({"network": "host", "ports": [{"container_port": 80, "host_port": 81}]}, ["/ports/0/host_port"]),
        ({"volumes": [{"name": "a", "target": "/x"}], "tmpfs": [{"target": "/x/"}]}, ["/tmpfs/0/target"]),
        ({"tmpfs": [{"target": "/"}]}, ["/tmpfs/0/target"]),
        ({"tmpfs": [{"target": "/x/../y"}]}, ["/tmpfs/0/target"]),
        ({"labels": {"landlord.dev/x": "1"}}, ["/labels"]),
    ],
)
def test_rules_across_fields(config: dict[str, Any], faults: list[str]) -> None:
    assert paths(config, OPEN) == faults
