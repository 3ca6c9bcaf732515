"""Making a cluster know the ``Tenant`` resource, from the definition that the package ships."""

from __future__ import annotations

import asyncio
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiException, ApiextensionsV1Api

from landlord.dev.processes import LauncherError

TIMEOUT = 30.0


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition of this release."""
    text = resources.files("landlord").joinpath("crds/tenants.yaml").read_text()
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


async def apply(*, context: str | None, kubeconfig: Path | None) -> None:
    """Create or replace the definition and wait until it is served. Raises :class:`LauncherError`."""
    body = definition()
    name = body["metadata"]["name"]
    try:
        client = await config.new_client_from_config(
            config_file=str(kubeconfig) if kubeconfig else None, context=context, persist_config=False
        )
        async with client, asyncio.timeout(TIMEOUT):
            api = ApiextensionsV1Api(client)
            try:
                await api.create_custom_resource_definition(body)
            except ApiException as error:
                if error.status != 409:
                    raise
                existing = await api.read_custom_resource_definition(name)
                body["metadata"]["resourceVersion"] = existing.metadata.resource_version
                await api.replace_custom_resource_definition(name, body)
            while not _established(await api.read_custom_resource_definition(name)):  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.05)
    except (ApiException, config.ConfigException, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise LauncherError(f"cannot install the Tenant resource definition: {reason}") from error


def _established(found: Any) -> bool:
    return any(
        condition.type == "Established" and condition.status == "True" for condition in found.status.conditions or ()
    )
