"""How the API server is reached."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from landlord.kubernetes import load_configuration

SERVER = "https://cluster.example:6443"


@pytest.fixture(autouse=True)
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    path = tmp_path / "kubeconfig"
    path.write_text(document())
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


def proxy() -> str | None:
    found: str | None = asyncio.run(load_configuration(None)).proxy
    return found


def document(**cluster: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "one",
            "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
            "clusters": [{"name": "one", "cluster": {"server": SERVER, **cluster}}],
            "users": [{"name": "one", "user": {"token": "secret"}}],
        }
    )


def test_without_a_proxy() -> None:
    assert proxy() is None


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("value", ["http://proxy.example:3128", "proxy.example:3128"])
def test_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert proxy() == "http://proxy.example:3128"


@pytest.mark.parametrize("bypassed", ["cluster.example", ".example", "*"])
def test_server_that_needs_no_proxy(monkeypatch: pytest.MonkeyPatch, bypassed: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", bypassed)
    assert proxy() is None


def test_proxy_of_the_kubeconfig_goes_first(monkeypatch: pytest.MonkeyPatch, kubeconfig: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    kubeconfig.write_text(document(**{"proxy-url": "http://other.example:3128"}))
    assert proxy() == "http://other.example:3128"
