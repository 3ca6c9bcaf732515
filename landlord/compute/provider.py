"""What Landlord asks of something that can run a tenant.

Providers keep nothing in memory: every call finds by label what earlier calls made, so any worker may go on where
another was killed. Generations fence: nothing made for a newer generation is ever touched on behalf of an older one.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

LABEL_TENANT = "landlord.dev/tenant-id"
LABEL_INSTALLATION = "landlord.dev/installation"
LABEL_GENERATION = "landlord.dev/generation"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSpec:
    """What is wanted of one tenant."""

    tenant_id: str
    generation: int
    attempt: int
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    name: str
    protocol: str
    address: str
    port: int

    @property
    def url(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol}://{address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What exists. Becomes the tenant's ``observed_config``."""

    resources: Mapping[str, str] = field(default_factory=dict)
    """Kind of resource to the provider's own id, e.g. ``{"container": "3f4e…"}``."""
    endpoints: Sequence[Endpoint] = ()
    health: str = "unknown"
    """``healthy``, ``unchecked`` (runs, nothing checks it), ``starting``, ``unhealthy`` or ``unknown``."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The configuration that was applied; what the next plan compares with. Empty in what ``status`` returns where the
    provider cannot tell: then it is what was given to ``apply``."""

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["endpoints"] = [{**asdict(endpoint), "url": endpoint.url} for endpoint in self.endpoints]
        return value


class ComputeState(StrEnum):
    RUNNING = "running"
    STARTING = "starting"
    STOPPED = "stopped"
    FAILED = "failed"
    """Runs no more and will not by itself."""
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeStatus:
    state: ComputeState
    generation: int | None = None
    outputs: Outputs = field(default_factory=Outputs)
    message: str = ""
    """Why it is not running or not healthy, for users: no secrets."""

    @property
    def serving(self) -> bool:
        """Running and healthy (or running long enough where nothing checks health)."""
        return self.state is ComputeState.RUNNING and self.outputs.health in ("healthy", "unchecked")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFault:
    """One thing wrong with a compute configuration."""

    path: str
    """JSON pointer (RFC 6901) into the configuration."""
    message: str


class ComputeError(Exception):
    """A call failed, trying again may help. The message is for users: no secrets."""

    code: ClassVar[str] = "ComputeFailed"


class ComputeUnavailable(ComputeError):
    """The provider cannot be reached."""

    code = "ComputeUnavailable"


class PermanentComputeError(ComputeError):
    """Trying the same configuration again cannot help (image unknown, not allowed, quota)."""

    code = "ComputeRefused"


class NewerGeneration(PermanentComputeError):
    """``apply`` was asked for a generation lower than what exists."""

    code = "NewerGeneration"

    def __init__(self, *, tenant_id: str, asked: int, existing: int) -> None:
        super().__init__(f"tenant {tenant_id} exists with generation {existing}, newer than {asked}")
        self.existing = existing


class ComputeProvider(abc.ABC):
    """One way to run tenants. Subclasses are found by the entry-point group ``landlord.compute_providers``.

    ``config_schema``, ``config_defaults`` and ``validate`` are pure and work where the provider cannot be reached: the
    API calls them. A class is instantiated as ``cls(settings=Settings)``.
    """

    name: ClassVar[str]

    async def start(self) -> None:
        """Open connections; does not fail when the provider is away."""

    async def close(self) -> None:
        """Close what :meth:`start` opened."""

    @abc.abstractmethod
    async def ready(self) -> None:
        """Raise :class:`ComputeUnavailable` unless calls would be served now."""

    @abc.abstractmethod
    def config_schema(self) -> dict[str, Any]:
        """JSON Schema 2020-12 of ``compute_config``."""

    @abc.abstractmethod
    def config_defaults(self) -> dict[str, Any]:
        """What is filled in where a configuration says nothing (top-level keys)."""

    def validate(self, config: Mapping[str, Any]) -> Sequence[ConfigFault]:
        """What the schema cannot say: rules across fields, and what this installation does not allow.

        Gets only those top-level keys that satisfy the schema, so required ones may be missing.
        """
        return ()

    @abc.abstractmethod
    async def apply(self, spec: ComputeSpec) -> Outputs:
        """Make the tenant exist as wanted: create, adopt by label, or replace. Idempotent.

        Does not wait for health, and leaves what serves for an older generation serving where both can run beside
        each other: :meth:`retire` removes it. Raises :class:`NewerGeneration`, :class:`ComputeError`.
        """

    async def retire(self, tenant_id: str, *, generation: int) -> None:
        """Called once this generation serves: remove what is left of the generations before it. Idempotent.

        Nothing to do for providers that update in place. Raises :class:`ComputeError`.
        """

    @abc.abstractmethod
    async def status(self, tenant_id: str) -> ComputeStatus:
        """What exists now of the newest generation (``absent`` where nothing does). Raises :class:`ComputeError`."""

    @abc.abstractmethod
    async def destroy(self, tenant_id: str, *, generation: int) -> None:
        """Remove everything labelled with a generation up to this one; return when none of it is left. Idempotent."""
