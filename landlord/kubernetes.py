"""The Kubernetes API as far as Landlord needs it: ``Tenant`` resources and Events.

On the official asyncio client (``kubernetes.aio``), with a limit in time for every call and errors by what they mean.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yaml
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from landlord.compute.provider import LABEL_INSTALLATION
from landlord.settings import PREFIX, ConfigurationError

GROUP = "landlord.dev"
VERSION = "v1alpha1"
PLURAL = "tenants"
KIND = "Tenant"
API_VERSION = f"{GROUP}/{VERSION}"

TIMEOUT = 15.0
"""Seconds that a call may take."""
PAGE = 500
"""Resources in one page of a list."""
LEVELS = 200
"""Of nesting, that are read of an answer which has too many to be decoded."""
CONNECTIONS = 32
WRITER = "landlord"
"""Our user agent, and thereby what the API server calls us where it tells who has written what (``managedFields``)."""

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_DEFINITION = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{PLURAL}.{GROUP}"
_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]')
"""And whole strings, in which they mean nothing."""
_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"


class KubernetesError(Exception):
    """A call failed. The message names the API server's reason; it holds nothing of a tenant's configuration."""


class Unavailable(KubernetesError):
    """The API server cannot be reached, or cannot serve now. Whether a write was applied is not known."""


class Conflict(KubernetesError):
    """Somebody else was faster (or the name is taken): read again."""


class NotFound(KubernetesError):
    """The resource, its namespace or its kind does not exist."""


class Forbidden(KubernetesError):
    """Our account is not allowed to do that, or the namespace is going away."""


class Rejected(KubernetesError):
    """The API server will not take what was written."""


async def load_configuration(context: str | None) -> Configuration:
    """How to reach the API server: the named context; else the pod's service account; else the current context.

    ``KUBECONFIG`` is honoured as kubectl does. Raises :class:`ConfigurationError`.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = CONNECTIONS
    # Else aiohttp reads ~/.netrc and the environment anew for every request, in threads: two thirds of the time.
    configuration.client_session_kwargs = {"trust_env": False}
    try:
        if context is None and _in_cluster():
            load_incluster_config(client_configuration=configuration)
        else:
            await load_kube_config(
                config_file=_kubeconfig(),
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
    except (ConfigException, OSError) as error:
        raise _unusable(context, str(error)) from None
    except (TypeError, ValueError, LookupError, AttributeError, yaml.YAMLError):  # the client checks no shapes
        raise _unusable(context, "the kubeconfig is not one") from None
    configuration.proxy = configuration.proxy or _proxy(configuration.host)
    return configuration


def _proxy(server: str) -> str | None:
    """From ``HTTPS_PROXY`` and its like, unless ``NO_PROXY`` has the server; as kubectl does, which needs no scheme."""
    parts = urlsplit(server)
    found = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    return found if found is None or "://" in found else f"http://{found}"


def _unusable(context: str | None, why: str) -> ConfigurationError:
    wanted = f"context {context!r}" if context else "a current context, or a pod's service account"
    return ConfigurationError(f"{PREFIX}KUBERNETES_CONTEXT: needs {wanted}: {why}")


def _kubeconfig() -> str:
    """One path or several, as kubectl takes them from the environment. Raises ``OSError`` where there is none."""
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if not any(Path(path).exists() for path in paths.split(os.pathsep) if path):
        raise FileNotFoundError(f"there is no {paths}")
    return paths


def _in_cluster() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and _SERVICE_ACCOUNT.exists()


class TenantResources:
    """``async with`` closes the connections. ``context`` is as for :func:`load_configuration`.

    Every method may raise :class:`KubernetesError`; each call ends within :data:`TIMEOUT`.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._client.user_agent = WRITER

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def get(self, namespace: str, name: str) -> dict[str, Any]:
        """Raises :class:`NotFound`."""
        return await self._call("GET", _path(namespace, name))

    async def create(self, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Raises :class:`Conflict` if there is one of that name."""
        return await self._call("POST", _path(namespace), body=body)

    async def patch(self, namespace: str, name: str, operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One JSON patch; a ``test`` that fails raises :class:`Conflict`."""
        try:
            return await self._call("PATCH", _path(namespace, name), body=list(operations), media_type=_JSON_PATCH)
        except Rejected as error:
            # 422 stands for a failed test as well as for what the schema refuses: either way it has to be read again.
            raise Conflict(str(error)) from error

    async def patch_status(self, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One merge patch of the status; with a ``resourceVersion`` in it a stale one raises :class:`Conflict`."""
        return await self._call("PATCH", f"{_path(namespace, name)}/status", body=body, media_type=_MERGE_PATCH)

    async def delete(self, namespace: str, name: str, *, uid: str, version: str | None = None) -> dict[str, Any]:
        """Only if it is still the one with that uid, and of that ``resourceVersion`` (else :class:`Conflict`)."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid} | ({"resourceVersion": version} if version else {}),
            "propagationPolicy": "Background",
        }
        return await self._call("DELETE", _path(namespace, name), body=body)

    async def pages(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Every ``Tenant`` of the cluster, by pages; ends with :class:`KubernetesError` if the list broke off."""
        token = ""
        while True:
            query = {"limit": str(PAGE)} | ({"continue": token} if token else {})
            answer = await self._call("GET", f"/apis/{API_VERSION}/{PLURAL}", query=query)
            yield answer["items"]
            token = answer["metadata"].get("continue") or ""
            if not token:
                return

    async def kind_is_going(self) -> bool:
        """Whether somebody is deleting the Tenant resource's definition, and thereby every ``Tenant`` there is.

        Raises :class:`Forbidden` where our account may not know.
        """
        try:
            definition = await self._call("GET", _DEFINITION)
        except NotFound:
            return True
        return definition["metadata"].get("deletionTimestamp") is not None

    async def claimed_by(self) -> str | None:
        """The installation whose the cluster's resources are, by the definition's annotation.

        Null where nobody has said so, or we may not know.
        """
        try:
            definition = await self._call("GET", _DEFINITION)
        except (NotFound, Forbidden):
            return None
        owner: str | None = (definition["metadata"].get("annotations") or {}).get(LABEL_INSTALLATION)
        return owner

    async def record(self, namespace: str, body: Mapping[str, Any]) -> None:
        """Store an Event."""
        await self._call("POST", f"/api/v1/namespaces/{quote(namespace)}/events", body=body)

    async def served(self) -> None:
        """Raise unless the API server answers and knows the Tenant resource."""
        await self._call("GET", f"/apis/{API_VERSION}")

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        media_type: str = "application/json",
    ) -> dict[str, Any]:
        url = f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Content-Type": media_type, "User-Agent": self._client.user_agent}
        try:
            async with asyncio.timeout(TIMEOUT):
                for setting in (await self._configuration.auth_settings()).values():
                    headers[setting["key"]] = setting["value"]
                answer = await self._client.rest_client.request(
                    method, url, headers=headers, body=body, _request_timeout=aiohttp.ClientTimeout(total=TIMEOUT)
                )
                data = await answer.read()
        except TimeoutError:
            raise Unavailable(f"the API server did not answer within {TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError, ConfigException) as error:
            raise Unavailable(f"the API server cannot be reached ({type(error).__name__})") from error
        return _answer(answer.status, data)


def _path(namespace: str, name: str | None = None) -> str:
    collection = f"/apis/{API_VERSION}/namespaces/{quote(namespace)}/{PLURAL}"
    return collection if name is None else f"{collection}/{quote(name)}"


def _answer(status: int, data: bytes) -> dict[str, Any]:
    if status < 300:
        return _decoded(data)
    message = _reason(status, data)
    match status:
        case 404:
            raise NotFound(message)
        case 409:
            raise Conflict(message)
        case 401 | 403:
            raise Forbidden(message)
        case 408 | 429:
            raise Unavailable(message)
        case _ if status >= 500:
            raise Unavailable(message)
        case _:
            raise Rejected(message)


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        try:
            value: dict[str, Any] = json.loads(data)
        except RecursionError:
            value = json.loads(_shallow(data))
    except ValueError:
        raise KubernetesError("the API server's answer is not JSON") from None
    return value


def _shallow(data: bytes) -> bytes:
    """The JSON down to :data:`LEVELS`, with null for what is below: one resource in a list must not hide the others."""
    kept, depth, begin = [], 0, 0
    for found in _BRACKETS.finditer(data):
        if found[0] in (b"{", b"["):
            depth += 1
            if depth == LEVELS + 1:
                kept += [data[begin : found.start()], b"null"]
        elif found[0] in (b"}", b"]"):
            depth -= 1
            if depth == LEVELS:
                begin = found.end()
    return b"".join([*kept, data[begin:]])


def _reason(status: int, data: bytes) -> str:
    """The API server's short reason only: its messages quote what was written."""
    try:
        reason = json.loads(data).get("reason")
    except (ValueError, AttributeError):
        reason = None
    return f"the API server answered {status} {reason or ''}".strip()
