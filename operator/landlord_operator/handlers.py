"""kopf as it serves us best: one stateless handler that looks at an event and passes it on.

Nothing is stored in the resources, no finalizer but our own is touched, nothing is written (notes on the measured
reasons are in docs/decisions). kopf's registry is explicit, so that two operators in one process share nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import kopf

from landlord.kubernetes import GROUP, PLURAL, VERSION, load_configuration
from landlord_operator.passes import Sighting

UNUSED_FINALIZER = f"{GROUP}/kopf-unused"
"""kopf removes *its* finalizer from everything it sees when it has no stateful handlers: it must never be ours."""


class NullDiffBase(kopf.DiffBaseStorage):
    """No last-handled configuration: stateful handlers are impossible, and a fifth of the CPU is saved."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        return


class NullProgress(kopf.ProgressStorage):
    """No progress of handlers, since none is stateful."""

    def fetch(self, *, key: Any, body: kopf.Body) -> Any:
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        return

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        return

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        return

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def build(*, saw: Callable[[Sighting], None], context: str | None) -> kopf.OperatorRegistry:
    """The registry of one operator. ``saw`` is called in kopf's own loop and must not block."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.scanning.disabled = True
        settings.peering.standalone = True
        settings.posting.enabled = False
        settings.watching.chunk_size = 500
        settings.queueing.idle_timeout = 0.01
        settings.networking.request_timeout = 30
        settings.networking.connect_timeout = 10
        settings.persistence.finalizer = UNUSED_FINALIZER
        settings.persistence.diffbase_storage = NullDiffBase()
        settings.persistence.progress_storage = NullProgress()

    @kopf.on.login(registry=registry, retries=3)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await _credentials(context)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def observe(event: Mapping[str, Any], **_: Any) -> None:
        saw(Sighting.watched(event["object"], gone=event["type"] == "DELETED"))

    return registry


async def _credentials(context: str | None) -> kopf.ConnectionInfo:
    """The same that our own client uses; called again whenever the API server says 401."""
    configuration = await load_configuration(context)
    header = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    scheme, _, token = header.partition(" ") if header else ("", "", "")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        ca_data=None if configuration.ssl_ca_cert else configuration.ca_cert_data,
        insecure=not configuration.verify_ssl,
        username=configuration.username or None,
        password=configuration.password or None,
        scheme=scheme or None if token else None,
        token=token or scheme or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )
