"""Checks of configurations: all faults, at their places, and never a value in a message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landlord.compute.config import faults, pointer, with_defaults
from landlord.compute.provider import ComputeProvider
from landlord.compute.providers.docker import DockerProvider
from landlord.compute.providers.mock import MockProvider
from landlord.settings import Settings

MOCK = MockProvider(settings=Settings())
DOCKER = DockerProvider(settings=Settings())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(sorted(DOCKER.config_schema()["properties"]))
SECRET = "hunter2-s3cr3t"


def found(provider: ComputeProvider, config: Any) -> dict[str, str]:
    return {fault.path: fault.message for fault in faults(provider, config)}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"image": "anything", "nested": {"a": [1]}}, {}),
        ({"delay_seconds": 0.5, "fail_first": 2, "unhealthy": True, "permanent_error": "no"}, {}),
        ({"delay_seconds": -1}, {"/delay_seconds": "must be at least 0"}),
        ({"delay_seconds": True}, {"/delay_seconds": "must be a number"}),
        (
            {"fail_first": 1.5, "unhealthy": "yes", "permanent_error": None},
            {
                "/fail_first": "must be an integer",
                "/unhealthy": "must be a boolean",
                "/permanent_error": "must be a string",
            },
        ),
        ([], {"": "must be an object"}),
    ],
)
def test_mock_types_its_own_keys_and_accepts_all_others(config: Any, expected: dict[str, str]) -> None:
    assert found(MOCK, config) == expected


def test_every_fault_is_told_at_once() -> None:
    config = {
        "immage": "nginx",
        "env": {"A/B": 1},
        "ports": [{"container_port": 0}, {"host_port": 80}],
        "health_check": {"test": 5, "retries": 0},
        "labels": {"landlord.dev/tenant-id": "other"},
        "network": "host",
        "privileged": True,
        "restart_policy": "sometimes",
    }
    assert found(DOCKER, config) == {
        "/image": "is required",
        "/immage": "is not allowed",
        "/env/A~1B": "must be a string",
        "/ports/0/container_port": "must be at least 1",
        "/ports/1/container_port": "is required",
        "/health_check/test": "must be one of: must be a string; must be an array",
        "/health_check/retries": "must be at least 1",
        "/labels": "must not have keys that start with landlord.dev/",
        "/network": "is not allowed by this installation; allowed: bridge, none",
        "/privileged": "is not allowed by this installation",
        "/restart_policy": 'must be one of "no", "on-failure", "always", "unless-stopped"',
    }


def test_what_a_text_must_be_is_said_in_words() -> None:
    config = {
        "image": "My Image",
        "env": {"A B": "1", "C": "\x00"},
        "ports": [{"container_port": 1, "scheme": "HTTP", "name": "-a"}],
        "volumes": [{"name": "a", "target": "a"}],
    }
    assert found(DOCKER, config) == {
        "/image": "must be an image reference, [registry[:port]/]name[:tag][@sha256:digest], its name in lower case",
        "/env": "has a key that is not allowed: it must be a name without = or white space",
        "/env/C": "must be a text without the character NUL",
        "/ports/0/scheme": "must be the scheme of a URL in lower case, such as http",
        "/ports/0/name": "must be up to 50 lower-case letters, digits and hyphens, with no hyphen at either end",
        "/volumes/0/target": "must be an absolute path without a colon",
    }


@pytest.mark.parametrize(
    "image",
    [
        "nginx",
        "nginx:1.2",
        "NGINX.example/app",
        "Host/app",
        "my_org/my__app/a-b--c.d:V1_x.y-z",
        "localhost:5000/a/b@sha256:" + "0" * 64,
        "127.0.0.1:5000/app:1@sha256:" + "f" * 64,
    ],
)
def test_an_image_that_an_engine_takes(image: str) -> None:
    assert found(DOCKER, {"image": image}) == {}


@pytest.mark.parametrize(
    "image",
    ["Nginx", "me/App", "a..b", "a___b", "-a", "a-", "a/", "/a", "a//b", "a:", "a:-1", "a b", "h-/a:1/b", "a@sha256:0"],
)
def test_an_image_that_no_engine_would_take(image: str) -> None:
    assert found(DOCKER, {"image": image}).keys() == {"/image"}


def test_every_pattern_of_docker_is_told_in_words() -> None:
    def wordless(schema: Any) -> list[str]:
        if isinstance(schema, list):
            return [each for value in schema for each in wordless(value)]
        if not isinstance(schema, dict):
            return []
        own = [schema["pattern"]] if "pattern" in schema and "x-allowed" not in schema else []
        return own + wordless(list(schema.values()))

    assert wordless(DOCKER.config_schema()) == []


def test_a_health_check_is_one_of_two_kinds() -> None:
    both = {"image": "a", "health_check": {"test": "true", "http": {"port": 1}}}
    neither: dict[str, Any] = {"image": "a", "health_check": {}}
    assert found(DOCKER, both) == {"/health_check": "must be only one of the alternatives"}
    assert "/test is required" in found(DOCKER, neither)["/health_check"]


@pytest.mark.parametrize("provider", [DOCKER, MOCK], ids=lambda provider: provider.name)
@given(config=st.dictionaries(KEYS | st.text(max_size=8), JSON, max_size=6))
def test_any_json_is_judged_without_an_error(provider: ComputeProvider, config: dict[str, Any]) -> None:
    assert all(fault.message and isinstance(fault.path, str) for fault in faults(provider, config))


def poisoned() -> st.SearchStrategy[Any]:
    leaf = st.just(SECRET) | st.sampled_from([f"{SECRET}\x00", f"--password={SECRET}", f"/{SECRET}/../x"])
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    )


@given(config=st.dictionaries(KEYS, poisoned(), max_size=6))
def test_no_value_is_ever_in_a_fault(config: dict[str, Any]) -> None:
    for fault in faults(DOCKER, config):
        assert SECRET not in fault.message
        assert SECRET not in fault.path


def test_a_secret_written_as_the_name_of_a_variable_is_not_told() -> None:
    assert SECRET not in str(faults(DOCKER, {"image": "a", "env": {f"A={SECRET}": ""}}))


@given(config=st.dictionaries(KEYS | st.text(max_size=8), JSON, max_size=6))
def test_defaults_fill_in_and_the_user_wins(config: dict[str, Any]) -> None:
    before = repr(config)
    merged = with_defaults(DOCKER, config)
    defaults = DOCKER.config_defaults()
    assert {key: merged[key] for key in config} == config
    assert {key: merged[key] for key in defaults.keys() - config.keys()} == {
        key: defaults[key] for key in defaults.keys() - config.keys()
    }
    assert merged.keys() == config.keys() | defaults.keys()
    assert with_defaults(DOCKER, merged) == merged
    assert repr(config) == before


def test_neither_input_is_shared() -> None:
    config = {"env": {"A": "1"}}
    merged = with_defaults(DOCKER, config)
    merged["env"]["A"] = "2"
    merged["restart_policy"] = "no"
    assert config == {"env": {"A": "1"}}
    assert DOCKER.config_defaults()["restart_policy"] == "unless-stopped"


@pytest.mark.parametrize("provider", [DOCKER, MOCK], ids=lambda provider: provider.name)
def test_defaults_satisfy_the_schema_and_are_told_in_it(provider: ComputeProvider) -> None:
    defaults = provider.config_defaults()
    assert found(provider, {"image": "nginx", **defaults}) == {}
    properties = provider.config_schema()["properties"]
    assert {key: properties[key]["default"] for key in defaults} == defaults


def test_every_field_is_described() -> None:
    def undescribed(schema: dict[str, Any], path: str) -> list[str]:
        missing = [] if "description" in schema else [path]
        for name, inner in schema.get("properties", {}).items():
            missing += undescribed(inner, f"{path}/{name}")
        if "properties" in schema.get("items", {}):
            missing += undescribed(schema["items"], f"{path}/items")
        return missing

    assert undescribed(DOCKER.config_schema(), "") == []


def test_pointers_escape() -> None:
    assert pointer([]) == ""
    assert pointer(["a/b", 0, "c~d"]) == "/a~1b/0/c~0d"
