"""The Kubernetes door, on a real API server: a thousand tenants, and ten thousand that nobody touches."""

from __future__ import annotations

import asyncio
import ssl
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import rows
from benchmarks.parts import Installation, Machine, say
from benchmarks.ready import TOGETHER, all_ready, post_thousand
from benchmarks.table import Row, percent
from landlord.dev import controlplane, definition
from landlord.dev.controlplane import ControlPlane
from landlord.dev.kubernetes_binaries import find_or_build
from landlord.kubernetes import API_VERSION, KIND

TENANTS = f"/apis/{API_VERSION}/tenants"
WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE")
CONNECTIONS = 32
NOW = "2026-01-01T00:00:00Z"
IDLE = 10_000
RESYNC = 300
"""Seconds, the default."""
OFTEN = 60
"""Seconds between resyncs while it is measured."""
SAMPLE = 5
"""Seconds of one sample of CPU."""
SAMPLES = 2 * OFTEN // SAMPLE
SETTLED = 10.0
"""Seconds without a pass after which the operator is idle."""


async def thousand(machine: Machine) -> list[Row]:
    """As without a cluster, but with the operator, until every resource says Ready=True.

    The limit: with nothing else running, one client creates as many resources and writes the status of each.
    """
    async with _control_plane(machine) as plane:
        async with machine.installation(KUBECONFIG=str(plane.kubeconfig), KUBERNETES_MIRROR="true") as installation:
            await installation.start("api", "worker", "operator")
            before = await _writes(plane)
            began = time.perf_counter()
            watching = asyncio.create_task(_resources_ready(plane))
            await post_thousand(installation)
            posted = time.perf_counter() - began
            await all_ready(installation)
            recorded = time.perf_counter() - began
            await watching
            seconds = time.perf_counter() - began
            await asyncio.sleep(3)  # writes that may still come
            writes = {verb: count - before.get(verb, 0) for verb, count in (await _writes(plane)).items()}
        bare = await _bare(plane)
    told = ", ".join(f"{verb} {count / TOGETHER:.2f}" for verb, count in sorted(writes.items()) if count)
    return [
        Row(
            what=f"{TOGETHER:,} POSTs at once, with a cluster: all Ready=True there",
            measured=f"{seconds:.2f} s (answered after {posted:.2f} s, ready in Postgres after {recorded:.2f} s)",
            limit=f"{bare:.2f} s",
            share=percent(bare / seconds),
            aim="at most 5 s",
        ),
        Row(
            what="writes to Kubernetes per tenant",
            measured=f"{sum(writes.values()) / TOGETHER:.2f} ({told})",
            aim="at most 3",
        ),
    ]


async def _bare(plane: ControlPlane) -> float:
    """Seconds for the same writes, from one client that does nothing else."""
    path = f"{plane.server}/apis/{API_VERSION}/namespaces/default/tenants"
    merge = {"Content-Type": "application/merge-patch+json"}
    status = {
        "phase": "ready",
        "observedGeneration": 1,
        "recordGeneration": 1,
        "conditions": [
            {"type": kind, "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": NOW}
            for kind in ("Ready", "Reconciling", "Stalled")
        ],
    }

    async def write(number: int) -> None:
        spec = {"computeProvider": "mock", "computeConfig": {}}
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": f"bare-{number}"}, "spec": spec}
        async with limited:
            async with session.post(path, json=body) as response:
                metadata = (await response.json())["metadata"]
            seen = {"resourceVersion": metadata["resourceVersion"], "uid": metadata["uid"]}
            patch = orjson.dumps({"metadata": seen, "status": status})
            async with session.patch(f"{path}/bare-{number}/status", data=patch, headers=merge) as response:
                response.raise_for_status()
                await response.read()

    limited = asyncio.Semaphore(CONNECTIONS)
    async with _administrator(plane) as session:
        began = time.perf_counter()
        await asyncio.gather(*map(write, range(TOGETHER)))
        return time.perf_counter() - began


async def idle(machine: Machine) -> list[Row]:
    """The operator with ten thousand ready tenants and their resources, when nothing happens."""
    async with (
        _control_plane(machine) as plane,
        machine.installation(KUBECONFIG=str(plane.kubeconfig), KUBERNETES_RESYNC=str(OFTEN)) as installation,
    ):
        await installation.start("api", "worker", "controller")
        await rows.fill(installation, count=IDLE)
        await installation.stop()
        say(f"the operator mirrors {IDLE:,} tenants")
        began = time.perf_counter()
        await installation.start("operator")
        took = await _settled(installation) - began
        memory = (await installation.metrics("operator"))["process_resident_memory_bytes"]
        used = await _cpu(installation)
    quiet = statistics.median(used)
    resync = max(0.0, (statistics.mean(used) - quiet) * OFTEN)
    return [
        Row(what=f"operator: mirrors {IDLE:,} existing tenants", measured=f"{took:.0f} s"),
        Row(
            what=f"operator with {IDLE:,} idle tenants: CPU",
            measured=f"{quiet + resync / RESYNC:.3f} core ({quiet:.3f}, and {resync:.2f} s every {RESYNC} s)",
            aim="at most 0.05 core",
        ),
        Row(what=f"operator with {IDLE:,} idle tenants: memory", measured=f"{memory / 2**20:.0f} MiB resident"),
    ]


@asynccontextmanager
async def _control_plane(machine: Machine) -> AsyncIterator[ControlPlane]:
    binaries = await find_or_build(progress=say)
    folder = machine.folder / f"cluster-{time.monotonic_ns()}"
    async with controlplane.running(binaries=binaries, state=folder) as plane:
        await definition.install(plane.request, installation="default")
        yield plane


async def _writes(plane: ControlPlane) -> dict[str, int]:
    """Writes of Tenant resources so far by verb, as the API server counts them."""
    _, text = await plane.request("GET", "/metrics")
    counts: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name != "apiserver_request_total" or labels["resource"] != "tenants":
                continue
            if labels["verb"] in WRITES:
                verb = "/".join(filter(None, (labels["verb"], labels["subresource"])))
                refused = "" if labels["code"].startswith("2") else f" ({labels['code']})"
                counts[verb + refused] = counts.get(verb + refused, 0) + int(sample.value)
    return counts


async def _resources_ready(plane: ControlPlane) -> None:
    """Return when so many resources say Ready=True, by watching them."""
    ready: set[str] = set()
    async with _administrator(plane) as session:
        while True:  # the API server ends the watch of those who cannot keep up
            async with session.get(f"{plane.server}{TENANTS}", params={"watch": "1"}) as response:
                async for line in response.content:
                    resource: dict[str, Any] = orjson.loads(line)["object"]
                    conditions = resource.get("status", {}).get("conditions", ())
                    if any(each["type"] == "Ready" and each["status"] == "True" for each in conditions):
                        ready.add(resource["metadata"]["name"])
                        if len(ready) == TOGETHER:
                            return


@asynccontextmanager
async def _administrator(plane: ControlPlane) -> AsyncIterator[aiohttp.ClientSession]:
    config = yaml.safe_load(plane.kubeconfig.read_text())
    authority = config["clusters"][0]["cluster"]["certificate-authority"]
    headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
    connector = aiohttp.TCPConnector(limit=2 * CONNECTIONS, ssl=ssl.create_default_context(cafile=authority))
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session:
        yield session


async def _settled(installation: Installation) -> float:
    """When the operator made its last pass, once it has made none for a while and each tenant had one."""
    seen, changed = 0.0, time.perf_counter()
    while time.perf_counter() - changed < SETTLED:
        passes = (await installation.metrics("operator"))["landlord_operator_pass_seconds_count"]
        if passes != seen or passes < IDLE:
            seen, changed = passes, time.perf_counter()
        await asyncio.sleep(0.25)
    return changed


async def _cpu(installation: Installation) -> list[float]:
    """The operator's use of a core, sample by sample; two resyncs are among them."""
    used = []
    before, at = (await installation.metrics("operator"))["process_cpu_seconds_total"], time.perf_counter()
    for _ in range(SAMPLES):
        await asyncio.sleep(SAMPLE)
        now, then = (await installation.metrics("operator"))["process_cpu_seconds_total"], time.perf_counter()
        used.append((now - before) / (then - at))
        before, at = now, then
    return used
