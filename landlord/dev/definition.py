"""Making a cluster know the ``Tenant`` resource, from the definition that the package ships."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, Protocol

import aiohttp
import yaml

from landlord.compute.provider import LABEL_INSTALLATION
from landlord.dev.processes import LauncherError

TIMEOUT = 30.0
POLL = 0.05
"""Seconds between two looks whether it is served."""
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Request(Protocol):
    """One request to an API server: the status and the decoded answer. Raises ``aiohttp.ClientError``."""

    async def __call__(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]: ...


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition of this release."""
    text = resources.files("landlord").joinpath("crds/tenants.yaml").read_text()
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


async def install(request: Request, *, installation: str, share: bool = True) -> None:
    """Create or replace the definition and wait until it is served.

    A new one is claimed for ``installation``: two operators would run each other's tenants. One that nobody has claimed
    stays so, and is only used if we may ``share``. Raises :class:`LauncherError`, also where another has claimed it.
    """
    body = definition()
    body["metadata"]["annotations"] = {LABEL_INSTALLATION: installation}
    path = f"{_DEFINITIONS}/{body['metadata']['name']}"
    try:
        async with asyncio.timeout(TIMEOUT):
            status, found = await request("POST", _DEFINITIONS, body=body)
            if status == 409:
                existing = _checked(*await request("GET", path))["metadata"]
                body["metadata"]["resourceVersion"] = existing["resourceVersion"]
                annotations = body["metadata"]["annotations"] = existing.get("annotations") or {}
                _refuse_others(annotations.get(LABEL_INSTALLATION), installation=installation, share=share)
                status, found = await request("PUT", path, body=body)
            while not _established(_checked(status, found)):
                await asyncio.sleep(POLL)
                status, found = await request("GET", path)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise _failed(type(error).__name__) from error


async def install_into(*, context: str, installation: str, share: bool) -> None:
    """:func:`install` into the cluster of a context of the user's kubeconfig. Raises :class:`LauncherError`."""
    # Late, because the client is large and a control plane of our own does without it.
    from kubernetes.aio import config

    try:
        client = await config.new_client_from_config(context=context, persist_config=False)
        async with client:

            async def request(
                method: str, path: str, *, body: Mapping[str, Any] | None = None
            ) -> tuple[int, dict[str, Any]]:
                headers = {"Accept": "application/json"}
                for setting in (await client.configuration.auth_settings()).values():
                    headers[setting["key"]] = setting["value"]
                url = f"{client.configuration.host}{path}"
                answer = await client.rest_client.request(method, url, headers=headers, body=body)
                return answer.status, json.loads(await answer.read())

            await install(request, installation=installation, share=share)
    except (config.ConfigException, OSError) as error:
        raise _failed(type(error).__name__) from error


def _refuse_others(owner: str | None, *, installation: str, share: bool) -> None:
    if owner is None and not share:
        raise LauncherError("the cluster has Tenant resources of somebody already; name its context to share them")
    if owner not in (None, installation):
        raise LauncherError(f"the cluster's Tenant resources are of installation {owner}, and this is {installation}")


def _checked(status: int, answer: dict[str, Any]) -> dict[str, Any]:
    if status not in (200, 201):
        raise _failed(f"{status} {answer.get('reason') or ''}".strip())
    return answer


def _failed(reason: str) -> LauncherError:
    return LauncherError(f"cannot install the Tenant resource definition: {reason}")


def _established(found: Mapping[str, Any]) -> bool:
    return any(
        condition["type"] == "Established" and condition["status"] == "True"
        for condition in found.get("status", {}).get("conditions") or ()
    )
