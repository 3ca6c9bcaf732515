"""The configuration of an installation: ``LANDLORD_*`` variables, over a YAML file, over the defaults here.

Every key is checked at start; an unknown one is an error, because a misspelt setting that is silently ignored wakes
somebody at night.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "LANDLORD_"
CONFIG_FILE = "LANDLORD_CONFIG"
"""Names the optional YAML file; its keys are the settings' names in lower case."""
LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
LONGEST = 10 * 365 * 86400
"""Seconds: what is longer is a mistake, and from some length on no clock, database or engine takes it."""


class ConfigurationError(Exception):
    """One line: the key, where its value came from, what is allowed."""


def _bounded(seconds: float) -> float:
    if seconds > LONGEST:
        raise ValueError(f"must be at most {LONGEST} seconds (ten years)")
    return seconds


def _sendable(token: SecretStr) -> SecretStr:
    if re.search(r"[^!-~]", token.get_secret_value()):
        raise ValueError("may hold only visible ASCII characters: does it end in a line break?")
    return token


# Not a Field(le=...): that would take the place of the narrower one of a setting.
Duration = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_bounded)]
"""Seconds. Each setting has its own lower bound."""
Token = Annotated[SecretStr, AfterValidator(_sendable)]
"""Goes into a header."""


class Settings(BaseSettings):
    """Effective settings. Durations are seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    installation: str = Field(default="default", pattern=LABEL)
    """Labels everything this installation makes; two on one engine never touch each other's."""

    database_url: SecretStr = SecretStr("postgresql:///landlord")
    """libpq URL of the tenants' database."""
    database_pool_size: int = Field(default=8, ge=2, le=100)

    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8080, ge=0, le=65535)
    api_tokens_file: Path | None = None
    """Lines ``name:sha256-of-token``; without it the API listens on loopback only."""
    health_host: str = "127.0.0.1"
    health_port: int = Field(default=0, ge=0, le=65535)
    """Where operator, worker and controller serve /healthz, /readyz and /metrics; 0 takes a free port."""

    workflow_provider: str = "local"
    workflow_trigger_timeout: Duration = Field(default=30, gt=0, le=300)
    workflow_local_url: SecretStr | None = None
    """Database of the ``local`` engine; the tenants' by default."""
    workflow_local_lease: Duration = Field(default=10, ge=0.5, le=10)
    workflow_local_retention: Duration = Field(default=7 * 86400, ge=60)
    """How long ended runs are kept by the ``local`` engine."""
    restate_ingress_url: str = Field(default="http://127.0.0.1:8080", pattern=r"^https?://[^/?#@]+/?$")
    """Where the Restate server takes invocations."""
    restate_admin_url: str = Field(default="http://127.0.0.1:9070", pattern=r"^https?://[^/?#@]+/?$")
    """Its admin API, which answers what runs do. It has no authentication of its own: keep it private."""
    restate_token: Token | None = None
    """Sent as ``Authorization: Bearer`` to both."""
    restate_ca_file: Path | None = None
    """PEM certificates to trust instead of the system's."""
    restate_connect_timeout: Duration = Field(default=3, gt=0, le=30)
    restate_connections: int = Field(default=64, ge=1, le=1000)
    """At most, of each process to each address."""
    restate_retention: Duration = Field(default=7 * 86400, ge=60)
    """How long Restate keeps ended runs."""
    restate_worker_host: str = "127.0.0.1"
    restate_worker_port: int = Field(default=9080, ge=1, le=65535)
    """Where the worker listens for Restate."""
    restate_worker_url: str | None = Field(default=None, pattern=r"^https?://[^?#@]+$")
    """Where Restate finds the worker, by default the two above. Runs in flight stay with the address they began at."""
    restate_worker_force_registration: bool = False
    """Replace what is registered at the worker's address: for development, where the code there changes."""
    restate_worker_identity_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """Public keys (``publickeyv1_...``) of the Restate servers that alone may call the worker."""
    restate_server: Path | None = None
    """The program that ``landlord dev --workflow restate`` starts."""
    callback_url: str | None = Field(default=None, pattern=r"^https?://[^/?#@]+/?$")
    """The API, for workers of ``restate`` to say that a run has ended. Where it is set, reconcilers poll less."""
    callback_token: Token | None = None
    """What workers say it with: a token of the API's, best one with the scope ``callbacks``."""
    worker_concurrency: int = Field(default=64, ge=1, le=1000)
    """Runs one worker executes at a time."""

    retry_attempts: int = Field(default=5, ge=1, le=100)
    retry_backoff: Duration = Field(default=1, gt=0, le=300)
    """Before the second try; doubles up to 300."""
    execution_deadline: Duration = Field(default=3600, gt=0)
    """After this long a run is Stalled, cancelled and started anew."""
    tombstone_retention: Duration = Field(default=30 * 86400, ge=60)
    idempotency_retention: Duration = Field(default=86400, ge=86400)

    compute_providers: Annotated[tuple[str, ...], NoDecode, Field(min_length=1)] = ("docker", "mock")
    compute_default_provider: str | None = None
    """The first of ``compute_providers`` by default."""
    compute_health_timeout: Duration = Field(default=300, gt=0)
    docker_host: str | None = None
    """As DOCKER_HOST; the engine's own default otherwise."""
    docker_publish_address: str = "127.0.0.1"
    docker_allow_volumes: Annotated[tuple[str, ...], NoDecode] = ()
    """Host paths below which tenants may mount; none by default."""
    docker_allow_host_network: bool = False
    docker_allow_privileged: bool = False
    docker_networks: Annotated[tuple[str, ...], NoDecode] = ()
    """Existing networks that tenants may join beside the default bridge."""
    docker_config_file: Path | None = None
    """A Docker ``config.json`` with the installation's registry credentials."""

    kubernetes_context: str | None = None
    """A kubeconfig context; the pod's service account, else the current context, by default."""
    kubernetes_namespace: str = Field(default="default", pattern=LABEL)
    """Where mirrors of tenants made by REST go."""
    kubernetes_resync: Duration = Field(default=300, ge=1)
    kubernetes_mirror: bool = True
    """Whether the API creates the Tenant resource behind a POST (the operator does it in any case)."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @field_validator(
        "compute_providers",
        "docker_allow_volumes",
        "docker_networks",
        "restate_worker_identity_keys",
        mode="before",
    )
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(item.strip() for item in value.split(",") if item.strip())
        return value

    @field_validator("compute_default_provider")
    @classmethod
    def _one_of_them(cls, value: str | None, info: ValidationInfo) -> str | None:
        providers = info.data.get("compute_providers", ())  # none where they are wrong themselves, which is told first
        if value is not None and providers and value not in providers:
            raise ValueError(f"must be one of compute_providers ({', '.join(providers)})")
        return value

    @property
    def default_compute_provider(self) -> str:
        return self.compute_default_provider or self.compute_providers[0]

    @property
    def local_engine_url(self) -> SecretStr:
        return self.workflow_local_url or self.database_url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The YAML file reaches us as init settings of lower rank: see load().
        return env_settings, init_settings


def load() -> Settings:
    """The settings of this process. Raises :class:`ConfigurationError`."""
    file = os.environ.get(CONFIG_FILE)
    values = _read_file(Path(file)) if file else {}
    known = {CONFIG_FILE, *map(_variable, Settings.model_fields)}
    # In lower case too, which would else be taken where it is right and passed over where it is misspelt.
    for name in sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name not in known):
        raise ConfigurationError(f"{name} (environment): no such setting; {_meant(name.upper(), known)}")
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_line(error, file=file)) from None


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _meant(name: str, known: Iterable[str]) -> str:
    """What may have been meant by a name that is no setting's."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    return f"did you mean {close[0]}?" if close else "without it `landlord config` shows all"


def _read_file(path: Path) -> dict[str, Any]:
    """What the file sets, by the names of settings."""
    try:
        values = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{CONFIG_FILE} (environment): cannot read {path}: {error.strerror}") from None
    except Exception:  # noqa: BLE001 - beside YAMLError whatever Python raises for a date, say, that is none
        raise ConfigurationError(f"{CONFIG_FILE} (environment): {path} is not valid YAML in UTF-8") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigurationError(f"{CONFIG_FILE} (environment): {path} must hold a mapping of settings")
    for key in values:
        if key not in Settings.model_fields:
            meant = _meant(str(key), Settings.model_fields)
            raise ConfigurationError(f"{key!r} ({path}): no such setting; {meant}")
    return values


def _line(error: ValidationError, *, file: str | None) -> str:
    """Of the first fault. Never shows the value itself: it may be a secret."""
    fault = error.errors(include_input=False, include_url=False)[0]
    variable = _variable(str(fault["loc"][0]))
    source = "environment" if variable in os.environ else file
    return f"{variable} ({source}): {fault['msg'].removeprefix('Value error, ')}"
