"""From a configuration to the Engine API's container, and back to what identifies it. Pure.

Source of names and units: Docker Engine API 1.41, ``POST /containers/create``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from landlord import canonical
from landlord.compute.provider import LABEL_GENERATION, LABEL_INSTALLATION, LABEL_TENANT, ComputeSpec

LABEL_CONFIG = "landlord.dev/config-hash"
LABEL_PORTS = "landlord.dev/ports"
"""JSON: container port and transport to the name and scheme of the endpoint."""
LABEL_RESTART_POLICY = "landlord.dev/restart-policy"
"""The one of the spec: the engine's own record of it is changed while the container must stay stopped."""

FIRST_PORT, PORTS = 20000, 12768
"""Where Landlord takes host ports from: below Linux's ephemeral range (32768), so that no client socket has one."""

NANOCPUS_PER_MILLICORE = 1_000_000
MIB = 2**20
NANOSECONDS = 1_000_000_000


def config_hash(config: Mapping[str, Any]) -> str:
    """Tells whether a container was made from this configuration."""
    return canonical.digest(canonical.dumps(dict(config)))[:32]


def container_name(*, installation: str, tenant_id: str, generation: int, digest: str) -> str:
    """Unique for these four (a dot is in neither of the labels), so that only one of two workers can make it."""
    return f"landlord-{installation}.{tenant_id}.g{generation}.{digest[:12]}"


def volume_name(*, installation: str, tenant_id: str, name: str) -> str:
    return f"landlord-{installation}.{tenant_id}.{name}"


def ownership(*, installation: str, tenant_id: str) -> dict[str, str]:
    """The labels by which everything of a tenant is found."""
    return {LABEL_INSTALLATION: installation, LABEL_TENANT: tenant_id}


def create_body(
    *, spec: ComputeSpec, config: Mapping[str, Any], installation: str, publish_address: str, turn: int = 0
) -> dict[str, Any]:
    """The body of the create call for a valid configuration with its defaults filled in.

    ``turn`` counts the tries to find free host ports for those the configuration leaves open. They are fixed here
    because the engine would take others whenever it starts the container again, and the endpoints on record be wrong.
    """
    owner = {
        **ownership(installation=installation, tenant_id=spec.tenant_id),
        LABEL_GENERATION: str(spec.generation),
    }
    ports = config.get("ports", ())
    body: dict[str, Any] = {
        "Image": config["image"],
        "Env": [f"{name}={value}" for name, value in sorted(config.get("env", {}).items())],
        "Labels": {
            **config.get("labels", {}),
            **owner,
            LABEL_CONFIG: config_hash(config),
            LABEL_PORTS: orjson.dumps(_port_names(config), option=orjson.OPT_SORT_KEYS).decode(),
            LABEL_RESTART_POLICY: config["restart_policy"],
        },
        "ExposedPorts": {_port_key(port): {} for port in ports},
        "StopTimeout": int(config["stop_timeout_seconds"]),
        "HostConfig": _host_config(
            config,
            owner=owner,
            publish_address=publish_address,
            host_ports=_host_ports(config, seed=f"{installation}/{spec.tenant_id}/{spec.generation}/{turn}"),
        ),
    }
    for key, field in (("command", "Cmd"), ("entrypoint", "Entrypoint"), ("user", "User")):
        if key in config:
            body[field] = config[key]
    if "health_check" in config:
        body["Healthcheck"] = _health_check(config["health_check"])
    return body


def claims(host_config: Mapping[str, Any]) -> frozenset[str]:
    """What two running containers cannot both have: host ports, writable volumes, the host's network.

    Takes the ``HostConfig`` of a create body or of an inspected container.
    """

    def found() -> Iterator[str]:
        for key, bindings in (host_config.get("PortBindings") or {}).items():
            for binding in bindings or ():
                if binding.get("HostPort"):
                    yield f"port {binding['HostPort']}/{key.partition('/')[2]}"
        for mount in host_config.get("Mounts") or ():
            if not mount.get("ReadOnly"):
                yield f"mount {mount.get('Source')}"
        if host_config.get("NetworkMode") == "host":
            yield "network host"

    return frozenset(found())


def chose(port: int | None, *, config: Mapping[str, Any]) -> bool:
    """Whether this host port was Landlord's choice, so that another turn of :func:`create_body` gives another.

    Of a port that is not known (null) this can be told only where all are chosen, or none is.
    """
    if config["network"] == "host":
        return False
    ports = [one.get("host_port") for one in config.get("ports", ())]
    fixed = {int(one) for one in ports if one is not None}
    return None in ports and (not fixed if port is None else port not in fixed)


def _host_config(
    config: Mapping[str, Any], *, owner: Mapping[str, str], publish_address: str, host_ports: Mapping[str, int]
) -> dict[str, Any]:
    resources = config.get("resources", {})
    policy: dict[str, Any] = {"Name": config["restart_policy"]}
    host: dict[str, Any] = {
        "NetworkMode": config["network"],
        "RestartPolicy": policy,
        "Init": config.get("init", False),
        "ReadonlyRootfs": config.get("read_only", False),
        "Privileged": config.get("privileged", False),
        "PortBindings": {key: [{"HostIp": publish_address, "HostPort": str(port)}] for key, port in host_ports.items()},
        "Mounts": [_mount(volume, owner=owner) for volume in config.get("volumes", ())],
        "Tmpfs": {
            entry["target"]: f"size={int(entry['size_mb'])}m" if "size_mb" in entry else ""
            for entry in config.get("tmpfs", ())
        },
    }
    if not config.get("privileged"):
        host["SecurityOpt"] = ["no-new-privileges:true"]
    if "cpu_millicores" in resources:
        host["NanoCpus"] = int(resources["cpu_millicores"]) * NANOCPUS_PER_MILLICORE
    if "memory_mb" in resources:
        # Equal limits leave no swap.
        host["Memory"] = host["MemorySwap"] = int(resources["memory_mb"]) * MIB
    if "pids" in resources:
        host["PidsLimit"] = int(resources["pids"])
    return host


def _mount(volume: Mapping[str, Any], *, owner: Mapping[str, str]) -> dict[str, Any]:
    common = {"Target": volume["target"], "ReadOnly": volume.get("read_only", False)}
    if "source" in volume:
        return {"Type": "bind", "Source": volume["source"], **common}
    name = volume_name(installation=owner[LABEL_INSTALLATION], tenant_id=owner[LABEL_TENANT], name=volume["name"])
    return {"Type": "volume", "Source": name, **common, "VolumeOptions": {"Labels": dict(owner)}}


def _health_check(check: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Test": _test(check),
        "Interval": _nanoseconds(check.get("interval_seconds", 5)),
        "Timeout": _nanoseconds(check.get("timeout_seconds", 5)),
        "Retries": int(check.get("retries", 3)),
        "StartPeriod": _nanoseconds(check.get("start_period_seconds", 0)),
    }


def _test(check: Mapping[str, Any]) -> list[str]:
    if "http" in check:
        # The schema leaves nothing in the path that a shell would read within quotes.
        url = f"'http://127.0.0.1:{int(check['http']['port'])}{check['http'].get('path', '/')}'"
        return [
            "CMD-SHELL",
            f"if command -v wget >/dev/null; then wget -q -O /dev/null {url}; else curl -fsS -o /dev/null {url}; fi",
        ]
    test = check["test"]
    if isinstance(test, str):
        return ["CMD-SHELL", test]
    return list(test) if test[0] in ("CMD", "CMD-SHELL", "NONE") else ["CMD", *test]


def _nanoseconds(seconds: float) -> int:
    return round(seconds * NANOSECONDS)


def _port_key(port: Mapping[str, Any]) -> str:
    return f"{int(port['container_port'])}/{port.get('protocol', 'tcp')}"


def _port_names(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    names = {}
    for port in config.get("ports", ()):
        key, transport = _port_key(port), port.get("protocol", "tcp")
        names[key] = {"name": port.get("name", key.replace("/", "-")), "scheme": port.get("scheme", transport)}
    return names


def _host_ports(config: Mapping[str, Any], *, seed: str) -> dict[str, int]:
    """Container port and transport to host port; nothing in the host's network, where they are the same.

    Those left open follow from ``seed``, so that tenants seldom meet and no state is needed.
    """
    if config["network"] == "host":
        return {}
    ports = config.get("ports", ())
    chosen = {_port_key(port): int(port["host_port"]) for port in ports if "host_port" in port}
    for port in ports:
        if "host_port" in port:
            continue
        key = _port_key(port)
        offset = int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big")
        while FIRST_PORT + offset % PORTS in chosen.values():
            offset += 1
        chosen[key] = FIRST_PORT + offset % PORTS
    return chosen
