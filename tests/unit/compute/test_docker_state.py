"""What inspections, errors and credential files are read as."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landlord.compute.provider import ComputeError, ComputeUnavailable, PermanentComputeError
from landlord.compute.providers.docker import credentials, faults, state

NOW = datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)


def inspected(*, restarts: int = 0, bindings: Any = None, **more: Any) -> state.Found:
    return state.Found(
        {
            "Id": "c1",
            "Image": "sha256:1",
            "Created": "2026-01-01T00:00:00Z",
            "RestartCount": restarts,
            "Config": {
                "Labels": {
                    "landlord.dev/generation": "2",
                    "landlord.dev/ports": '{"80/tcp": {"name": "web", "scheme": "http"}}',
                },
                "Env": ["TOKEN=hunter2"],
            },
            "HostConfig": {"Memory": 64 * 2**20, "PortBindings": bindings or {}, "NetworkMode": "bridge"},
            "State": {"StartedAt": "2026-01-01T00:00:00.123456789Z", "ExitCode": 0, "Pid": 0, **more},
        }
    )


def verdict(found: state.Found, now: datetime = NOW) -> tuple[str, str, str]:
    status = state.describe(found, publish_address="127.0.0.1", now=now)
    assert status.generation == 2
    return status.state.value, status.outputs.health, status.message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"Status": "running"}, ("running", "unchecked", "")),
        ({"Status": "running", "StartedAt": "2026-01-01T00:00:05.5Z"}, ("starting", "starting", "")),
        (
            {"Status": "running", "StartedAt": "2026-01-01T00:00:09Z", "restarts": 2, "ExitCode": 3},
            ("starting", "starting", "restarted 2 times, last exit code 3"),
        ),
        ({"Status": "running", "Health": {"Status": "starting"}}, ("starting", "starting", "")),
        (
            {"Status": "running", "Health": {"Status": "starting", "Log": [{"ExitCode": 0}, {"ExitCode": 127}]}},
            ("starting", "starting", "the last health check failed (exit code 127)"),
        ),
        (
            {"Status": "running", "Health": {"Status": "starting", "Log": [{"ExitCode": 0}]}},
            ("starting", "starting", ""),
        ),
        (
            {"Status": "running", "restarts": 2, "ExitCode": 3, "Health": {"Status": "starting"}},
            ("starting", "starting", "restarted 2 times, last exit code 3"),
        ),
        ({"Status": "running", "Health": {"Status": "none"}}, ("running", "unchecked", "")),
        ({"Status": "running", "Health": {"Status": "healthy"}}, ("running", "healthy", "")),
        (
            {
                "Status": "running",
                "Health": {"Status": "unhealthy", "FailingStreak": 3, "Log": [{"ExitCode": 7, "Output": "hunter2"}]},
            },
            ("running", "unhealthy", "health check failed 3 times in a row (exit code 7)"),
        ),
        ({"Status": "created"}, ("starting", "starting", "created, not started yet")),
        ({"Status": "paused"}, ("stopped", "unhealthy", "paused")),
        ({"Status": "exited"}, ("stopped", "unhealthy", "exit code 0")),
        ({"Status": "exited", "ExitCode": 2, "Error": "hunter2"}, ("failed", "unhealthy", "exit code 2")),
        (
            {"Status": "exited", "ExitCode": 137, "OOMKilled": True},
            ("failed", "unhealthy", "out of memory (exit code 137, limit 64 MiB)"),
        ),
        (
            {"Status": "exited", "ExitCode": 137, "OOMKilled": False},
            ("failed", "unhealthy", "killed, perhaps out of memory (exit code 137, limit 64 MiB)"),
        ),
        (
            {"Status": "restarting", "restarts": 2, "ExitCode": 1},
            ("starting", "unhealthy", "keeps exiting (2 restarts): exit code 1"),
        ),
        (
            {"Status": "restarting", "restarts": 8, "ExitCode": 1},
            ("failed", "unhealthy", "keeps exiting (8 restarts): exit code 1"),
        ),
        ({"Status": "dead", "ExitCode": 1}, ("failed", "unhealthy", "exit code 1")),
    ],
)
def test_states(given: dict[str, Any], expected: tuple[str, str, str]) -> None:
    assert verdict(inspected(**given)) == expected


def test_the_engines_clock_may_be_in_any_zone() -> None:
    found = inspected(Status="running", StartedAt="2026-01-01T02:00:05.999999999+02:00")
    assert verdict(found)[1] == "starting"
    assert verdict(found, datetime(2026, 1, 1, 0, 0, 11, tzinfo=UTC))[1] == "unchecked"


@pytest.mark.parametrize(
    ("address", "shown", "url"),
    [
        ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:20001"),
        ("0.0.0.0", "127.0.0.1", "http://127.0.0.1:20001"),
        ("", "127.0.0.1", "http://127.0.0.1:20001"),
        ("::", "::1", "http://[::1]:20001"),
        ("10.1.2.3", "10.1.2.3", "http://10.1.2.3:20001"),
        ("::1", "::1", "http://[::1]:20001"),
    ],
)
def test_endpoints(address: str, shown: str, url: str) -> None:
    found = inspected(Status="running", bindings={"80/tcp": [{"HostIp": address, "HostPort": "20001"}]})
    (endpoint,) = state.endpoints(found.data, publish_address=address)
    assert (endpoint.name, endpoint.address, endpoint.url) == ("web", shown, url)


@given(label=st.text(max_size=20))
def test_a_spoilt_generation_is_the_oldest(label: str) -> None:
    generation = state.label_generation({"landlord.dev/generation": label})
    assert generation == (int(label) if label.isascii() and label.isdigit() and len(label) <= 18 else 0)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (900, "Cannot connect", ComputeUnavailable),
        (404, "No such image: x:1", faults.ImageAbsent),
        (404, "No such container: abc", faults.Gone),
        (404, "get data: no such volume", faults.Gone),
        (404, "network nope not found", PermanentComputeError),
        (409, "Conflict. The container name is already in use", faults.Conflict),
        (500, "driver failed: Bind for 127.0.0.1:1 failed: port is already allocated", faults.PortTaken),
        (500, "listen tcp4 127.0.0.1:1: bind: address already in use", faults.PortTaken),
        (400, "OCI runtime create failed: exec: no such file", PermanentComputeError),
        (500, "OCI runtime create failed: operation not permitted", PermanentComputeError),
        (500, "unable to find user x: no matching entries in passwd file", PermanentComputeError),
        (500, "unable to find group x: no matching entries in group file", PermanentComputeError),
        (400, "No command specified", PermanentComputeError),
        (401, "not logged in", PermanentComputeError),
        (403, "authorization denied by plugin", PermanentComputeError),
        (500, "something else", ComputeError),
    ],
)
def test_refused_calls(status: int, message: str, kind: type[ComputeError]) -> None:
    assert type(faults.translate(status=status, message=message, action="try")) is kind


@pytest.mark.parametrize(
    ("message", "port"),
    [
        ("Error starting userland proxy: listen tcp4 127.0.0.1:8080: bind: address already in use", 8080),
        ("Error starting userland proxy: listen tcp6 [::1]:8080: bind: address already in use", 8080),
        ("Error starting userland proxy: listen udp4 0.0.0.0:53: bind: address already in use", 53),
        ("on endpoint a (e6d2): Bind for 127.0.0.1:28001 failed: port is already allocated", 28001),
        ("on endpoint a (e6d2): Bind for 2001:1::1:28001 failed: port is already allocated", 28001),
        ("failed to bind port 0.0.0.0:80/tcp: Error starting userland proxy: address already in use", 80),
        ("failed to bind host port for 0.0.0.0:8000:172.31.0.2:80/tcp: address already in use", 8000),
        ("failed to bind host port 0.0.0.0:53/tcp: address already in use", 53),
        ("Failed to bind: address already in use", None),
    ],
)
def test_which_port_is_taken(message: str, port: int | None) -> None:
    error = faults.translate(status=500, message=message, action="start the container")
    assert isinstance(error, faults.PortTaken)
    assert error.port == port


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (404, "manifest for x:1 not found: manifest unknown: manifest unknown", PermanentComputeError),
        (404, "pull access denied for x, repository does not exist", PermanentComputeError),
        (404, "something else", PermanentComputeError),
        (404, 'Get "https://r/v2/": dial tcp: lookup r on 10.0.0.1:53: server misbehaving', ComputeError),
        (500, "docker.io/library/x:1: not found", PermanentComputeError),
        (500, "manifest unknown: OCI index not in the registry", PermanentComputeError),
        (500, "no matching manifest for linux/amd64 in the manifest list entries", PermanentComputeError),
        (500, "invalid reference format", PermanentComputeError),
        (400, "something else", PermanentComputeError),
        (500, 'Get "https://r/v2/x/manifests/1": no basic auth credentials', PermanentComputeError),
        (500, "denied: requested access to the resource", PermanentComputeError),
        (500, 'Head "https://r/v2/x/manifests/1": unauthorized: bad token', PermanentComputeError),
        (500, 'Get "https://registry-1.docker.io/v2/": dial tcp: lookup r: no such host', ComputeError),
        (500, 'Get "http://localhost:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused', ComputeError),
        (500, 'Get "https://r/v2/": dial tcp 10.0.0.1:443: connect: permission denied', ComputeError),
        (0, "toomanyrequests: You have reached your pull rate limit", ComputeError),
        (0, "unexpected EOF", ComputeError),
        (900, "Cannot connect", ComputeUnavailable),
    ],
)
def test_failed_pulls(status: int, message: str, kind: type[ComputeError]) -> None:
    error = faults.translate_pull(status=status, message=message, image="x:1")
    assert type(error) is kind
    assert "x:1" in str(error)


@given(secret=st.text(min_size=1, max_size=12).filter(lambda text: text.strip() and "*" not in text), tail=st.text())
def test_secrets_are_cut_out(secret: str, tail: str) -> None:
    message = f'exec "{secret}" failed'
    cut = faults.scrub(message, secrets=[secret, ""])
    assert f'"{secret}"' not in cut
    assert "\n" not in faults.scrub(f"{message}\n{tail}")


@pytest.mark.parametrize(
    ("secrets", "message", "cut"),
    [
        (["run --token x"], 'exec: "run --token x": not found', 'exec: "***": not found'),
        (['run "a" \\\n'], 'exec: "run \\"a\\" \\\\\\n": not found', 'exec: "***": not found'),
        (
            ["sh", "-c", "1"],
            "cannot sh-are 127.0.0.1:1/tcp with /bin/sh-c",
            "cannot sh-are 127.0.0.1:1/tcp with /bin/sh-c",
        ),
        (["sh", "bob", "1"], 'exec: "sh": user bob: code 1', 'exec: "***": user ***: code ***'),
    ],
)
def test_short_values_are_cut_out_only_where_they_stand_alone(secrets: list[str], message: str, cut: str) -> None:
    assert faults.scrub(message, secrets=secrets) == cut


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"Status": "running"}, True),
        ({"Status": "running", "restarts": 1}, False),
        ({"Status": "exited"}, False),
        ({"Status": "running", "Health": {"Status": "healthy"}, "restarts": 1}, True),
        ({"Status": "running", "Health": {"Status": "starting"}}, False),
        ({"Status": "running", "Health": {"Status": "unhealthy"}}, False),
        ({"Status": "paused", "Health": {"Status": "healthy"}}, False),
    ],
)
def test_what_users_may_be_relying_on(given: dict[str, Any], expected: bool) -> None:
    assert inspected(**given).serving is expected


def test_what_is_started_again() -> None:
    def found(*states: str) -> list[state.Found]:
        return [inspected(Status=status) for status in states]

    both = found("exited", "exited")
    assert state.to_revive(both) == both[:1]
    for nothing in (
        [],
        found("exited", "running"),
        found("exited", "restarting"),
        found("exited", "paused"),
        found("created"),
        found("dead"),
    ):
        assert state.to_revive(nothing) == []


@pytest.mark.parametrize(
    ("image", "registry", "full"),
    [
        ("nginx", "docker.io", "docker.io/library/nginx"),
        ("nginx:1.2", "docker.io", "docker.io/library/nginx:1.2"),
        ("me/app", "docker.io", "docker.io/me/app"),
        ("docker.io/me/app", "docker.io", "docker.io/me/app"),
        ("index.docker.io/nginx", "docker.io", "docker.io/library/nginx"),
        ("localhost/app", "localhost", "localhost/app"),
        ("reg.example.com/a/b:1", "reg.example.com", "reg.example.com/a/b:1"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000", "127.0.0.1:5000/a"),
    ],
)
def test_registries(image: str, registry: str, full: str) -> None:
    assert credentials.registry_of(image) == registry
    assert credentials.qualified(image) == full


def test_credentials(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    encoded = base64.b64encode(b"me:pass:word").decode()
    file.write_text(
        json.dumps(
            {
                "auths": {
                    "https://index.docker.io/v1/": {"auth": encoded},
                    "reg.example.com": {"identitytoken": "token"},
                    "plain:5000": {"username": "u", "password": "p"},
                    "helper.example.com": {},
                },
                "credsStore": "desktop",
            }
        )
    )
    read = credentials.read_credentials
    assert read(file, registry="docker.io") == {"username": "me", "password": "pass:word"}
    assert read(file, registry="reg.example.com") == {"identitytoken": "token"}
    assert read(file, registry="plain:5000") == {"username": "u", "password": "p"}
    assert read(file, registry="helper.example.com") is None
    assert read(file, registry="other.example.com") is None


@pytest.mark.parametrize("content", ["hunter2", "[]", '{"auths": {"r": {"auth": "hunter2!"}}}', '{"auths": {"r": 1}}'])
def test_spoilt_credentials_are_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(ComputeError, match="not a Docker config") as caught:
        credentials.read_credentials(file, registry="r")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ComputeError, match="cannot be read"):
        credentials.read_credentials(tmp_path / "absent", registry="r")
