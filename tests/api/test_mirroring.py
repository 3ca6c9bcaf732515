"""The resource that the API makes behind a POST, on a real Kubernetes API server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest
from fixtures.kubernetes import Kubectl
from fixtures.rest import serving, unique

from landlord.settings import ConfigurationError, Settings
from landlord_api.mirroring import mirroring


async def test_a_post_makes_the_resource(
    settings: Settings, kubeconfig: Path, namespace: str, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    own = settings.model_copy(update={"kubernetes_namespace": namespace})
    async with (
        mirroring(own) as mirror,
        serving(own, after_create=mirror.after_create, checks=mirror.checks) as rest,
    ):
        ready = await rest.get("/readyz")
        assert (ready.status, ready["degraded"]) == (200, [])
        name = unique()
        reply = await rest.post(
            "/api/tenants", {"id": name, "compute_config": {"image": "app:1"}, "deletion_policy": "Retain"}
        )
        assert reply.status == 202
        async with asyncio.timeout(10):
            while "NotFound" in (text := await kubectl("get", "tenant", name, "-o", "json", check=False)):
                await asyncio.sleep(0.05)
        resource = orjson.loads(text)
        assert resource["spec"]["computeConfig"] == {"image": "app:1"}
        assert resource["spec"]["deletionPolicy"] == "Retain"
        assert resource["metadata"]["finalizers"]


async def test_a_cluster_that_is_away_only_degrades(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    await asyncio.to_thread(
        config.write_text,
        """{"apiVersion": "v1", "kind": "Config", "current-context": "away",
        "contexts": [{"name": "away", "context": {"cluster": "away", "user": "nobody"}}],
        "clusters": [{"name": "away", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "nobody", "user": {}}]}""",
    )
    monkeypatch.setenv("KUBECONFIG", str(config))
    async with (
        mirroring(settings) as mirror,
        serving(settings, after_create=mirror.after_create, checks=mirror.checks) as rest,
    ):
        name = await rest.create()
        ready = await rest.get("/readyz")
        assert (ready.status, [each["check"] for each in ready["degraded"]]) == (200, ["kubernetes"])
        assert (await rest.record(name))["status"] == "planning"


async def test_no_cluster_at_all(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    async with mirroring(settings) as mirror:
        assert mirror.after_create is None
    with pytest.raises(ConfigurationError, match="LANDLORD_KUBERNETES_CONTEXT"):
        async with mirroring(settings.model_copy(update={"kubernetes_context": "nowhere"})):
            pass
    async with mirroring(settings.model_copy(update={"kubernetes_mirror": False})) as mirror:
        assert mirror.after_create is None
