"""How the API server is reached, and how its answers are read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web  # noqa: TID251 - an API server, served by the test
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from landlord import canonical
from landlord.kubernetes import LEVELS, KubernetesError, TenantResources, load_configuration

DEEP = 100_000
"""Levels that no decoder in C takes, whatever it has been allowed."""
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


async def listed(answer: str) -> list[list[dict[str, Any]]]:
    """The pages of an API server that says this."""

    async def say(_: web.Request) -> web.Response:
        return web.Response(text=answer, content_type="application/json")

    application = web.Application()
    application.router.add_get("/{path:.*}", say)
    async with TestServer(application) as server:
        configuration = Configuration(host=str(server.make_url("")).rstrip("/"))
        async with TenantResources(configuration) as resources:
            return [page async for page in resources.pages()]


async def test_resource_that_is_nested_too_deeply_hides_no_other() -> None:
    odd = {"text": r'[{ "\ ]', "list": [{}, [1, "}"]]}
    first = '{"a":[' * (DEEP // 2) + "1" + "]}" * (DEEP // 2)
    [[deep, *others]] = await listed(f'{{"items": [{first}, {json.dumps(odd)}, {{}}], "metadata": {{}}}}')
    assert others == [odd, {}]
    assert canonical.depth(deep) == LEVELS - 2


async def test_answer_that_is_not_json() -> None:
    with pytest.raises(KubernetesError, match="not JSON"):
        await listed("<html>please log in</html>")
