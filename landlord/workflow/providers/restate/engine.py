"""The two doors of a Restate server: the ingress takes invocations, the admin API knows and controls them.

Restate's HTTP API: https://docs.restate.dev/invoke/http and https://docs.restate.dev/references/admin-api; its tables:
https://docs.restate.dev/references/sql-introspection. What is relied on was tried on 1.7.12.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from landlord.settings import ConfigurationError, Settings
from landlord.workflow.provider import ProviderUnavailable, TriggerTimeout

CALL_TIMEOUT = 10.0
"""Seconds that any call but a trigger may take."""
OLDEST = (1, 7)
NEWEST = (2, 0)
"""Versions of the server that are served: from the one, before the other."""
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a door said: a status and its body."""

    status: int
    body: bytes
    source: str | None
    """Who speaks: ``ingress``, or ``invocation`` for how a run ended."""

    def json(self) -> Any:
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise ProviderUnavailable(f"restate: what answers ({self.status}) is no Restate server") from None

    @property
    def code(self) -> str | None:
        """Restate's own name of what is wrong: https://docs.restate.dev/references/errors."""
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None
        return value.get("restate_code") if isinstance(value, dict) else None

    @property
    def failed(self) -> bool:
        """The door cannot serve now: not that a run has failed, nor that a worker could not be asked (META0003)."""
        return self.status >= 500 and self.source != "invocation" and self.code != "META0003"


class Engine:
    """Every call ends in time and raises :class:`ProviderUnavailable` with a reason that names no address or secret.

    Whatever is asked may be asked twice: a connection that the server had closed meanwhile costs a second try.
    """

    def __init__(self, *, settings: Settings) -> None:
        self._ingress = settings.restate_ingress_url.rstrip("/")
        self._admin = settings.restate_admin_url.rstrip("/")
        self._token = settings.restate_token
        self._connections = settings.restate_connections
        self._connect_timeout = settings.restate_connect_timeout
        self._tls = _tls(settings)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ingress(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = CALL_TIMEOUT,
    ) -> Answer:
        """Raises :class:`TriggerTimeout` after ``timeout`` seconds; null waits as long as it takes."""
        return await self._call("ingress", method, self._ingress + path, data=data, headers=headers, timeout=timeout)

    async def admin(self, method: str, path: str, *, value: Any = None) -> Answer:
        data = None if value is None else orjson.dumps(value)
        headers = {"accept": "application/json"}
        return await self._call("admin API", method, self._admin + path, data=data, headers=headers)

    async def query(self, statement: str) -> list[dict[str, Any]]:
        """Rows of the introspection tables; a column that is null is not in its row."""
        answer = await self.admin("POST", "/query", value={"query": statement})
        if answer.status != 200:
            raise ProviderUnavailable(f"restate: the admin API refuses a query ({answer.status})")
        value = answer.json()
        rows = value.get("rows") if isinstance(value, dict) else None
        if not isinstance(rows, list):
            raise ProviderUnavailable("restate: what answers queries is no Restate admin API")
        return rows

    async def ready(self) -> None:
        """Raise unless both doors answer as a server of a version we know, and a query is answered."""
        health = await self.ingress("GET", "/restate/health")
        if health.status != 200:
            raise ProviderUnavailable(f"restate: no Restate ingress answers there ({health.status})")
        version = (await self.admin("GET", "/version")).json()
        found = version.get("version") if isinstance(version, dict) else None
        if not _supported(found):
            oldest, newest = (".".join(map(str, each)) for each in (OLDEST, NEWEST))
            raise ProviderUnavailable(
                f"restate: the server says it is version {str(found)[:20]}; needed is {oldest} or later, below {newest}"
            )
        await self.query("select 1")

    async def _call(
        self,
        door: str,
        method: str,
        url: str,
        *,
        data: bytes | None,
        headers: Mapping[str, str] | None,
        timeout: float | None = CALL_TIMEOUT,
    ) -> Answer:
        sent = {"content-type": "application/json"} if data is not None else {}
        try:
            answer = await self._again(method, url, data=data, headers={**sent, **(headers or {})}, timeout=timeout)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError):
            raise ProviderUnavailable(f"restate: the {door}'s TLS certificate is not trusted") from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, UnicodeError):
            # The last where the host could be nobody's name.
            raise ProviderUnavailable(f"restate: cannot connect to the {door}") from None
        except TimeoutError:
            raise TriggerTimeout(f"restate: no answer from the {door} within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderUnavailable(f"restate: the {door} broke off ({type(error).__name__})") from None
        if answer.status in (401, 403):
            raise ProviderUnavailable(
                f"restate: the {door} refuses our credentials ({answer.status}): check LANDLORD_RESTATE_TOKEN"
            )
        if answer.status in (407, 429) or answer.failed:
            raise ProviderUnavailable(f"restate: the {door} cannot serve now ({answer.status})")
        return answer

    async def _again(
        self, method: str, url: str, *, data: bytes | None, headers: Mapping[str, str], timeout: float | None
    ) -> Answer:
        try:
            return await self._send(method, url, data=data, headers=headers, timeout=timeout)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError, aiohttp.ClientOSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise
            return await self._send(method, url, data=data, headers=headers, timeout=timeout)

    async def _send(
        self, method: str, url: str, *, data: bytes | None, headers: Mapping[str, str], timeout: float | None
    ) -> Answer:
        limit = aiohttp.ClientTimeout(total=timeout, sock_connect=self._connect_timeout)
        async with self._opened().request(
            # A redirect could carry the token elsewhere.
            method,
            url,
            data=data,
            headers=headers,
            timeout=limit,
            allow_redirects=False,
        ) as response:
            _acknowledge(response)
            return Answer(
                status=response.status,
                body=await response.read(),
                source=response.headers.get("x-restate-error-source"),
            )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            token = None if self._token is None else self._token.get_secret_value()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=self._connections, ssl=self._tls),
                headers={} if token is None else {"authorization": f"Bearer {token}"},
            )
        return self._session


def _acknowledge(response: aiohttp.ClientResponse) -> None:
    """At once (Linux: tcp(7)). The server writes rows in pieces and holds the next back until the last is acknowledged,
    which by default takes 40 ms."""
    if _QUICKACK is None or response.connection is None or response.connection.transport is None:
        return
    connection = response.connection.transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def _tls(settings: Settings) -> ssl.SSLContext | bool:
    if settings.restate_ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=settings.restate_ca_file)
    except (OSError, ssl.SSLError):
        raise ConfigurationError("LANDLORD_RESTATE_CA_FILE: must name a file of PEM certificates") from None


def _supported(version: Any) -> bool:
    try:
        major, minor, *_ = map(int, str(version).split("-")[0].split("."))
    except ValueError:
        return False
    return OLDEST <= (major, minor) < NEWEST
