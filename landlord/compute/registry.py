"""The compute providers of this installation, found by entry point, so that a third party's need no change here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from landlord import plugins
from landlord.compute.provider import ComputeProvider
from landlord.settings import PREFIX, ConfigurationError, Settings

GROUP = "landlord.compute_providers"
KEY = f"{PREFIX}COMPUTE_PROVIDERS"
WHAT = "compute provider"


class UnknownComputeProvider(LookupError):
    """No such provider is configured. The message says which are."""

    def __init__(self, name: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(f"unknown compute provider {name[:64]!r}; this installation has: {', '.join(allowed)}")
        self.name = name
        self.allowed = allowed


class ComputeRegistry:
    """The configured providers by name.

    Only the modules of configured providers are imported. Raises :class:`~landlord.settings.ConfigurationError` where
    one is not installed or cannot be loaded. Schema, defaults and validation work without :meth:`start`.
    """

    def __init__(self, *, settings: Settings) -> None:
        installed = {point.name: point for point in entry_points(group=GROUP)}
        self._providers: Mapping[str, ComputeProvider] = {
            name: plugins.make(
                _point(name, installed=installed), kind=ComputeProvider, what=WHAT, key=KEY, settings=settings
            )
            for name in settings.compute_providers
        }
        self._default = settings.default_compute_provider

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the setting."""
        return tuple(self._providers)

    @property
    def default(self) -> str:
        """The provider of tenants that name none."""
        return self._default

    def get(self, name: str) -> ComputeProvider:
        """Raises :class:`UnknownComputeProvider`."""
        try:
            return self._providers[name]
        except KeyError:
            raise UnknownComputeProvider(name, allowed=self.names) from None

    async def start(self) -> None:
        """Open the providers' connections; providers that are away do not fail it."""
        for provider in self._providers.values():
            await provider.start()

    async def close(self) -> None:
        """Close them all, also where one fails to close; then raises what the first of those raised."""
        faults: list[Exception] = []
        for provider in self._providers.values():
            try:
                await provider.close()
            except Exception as error:  # noqa: BLE001 - the others must be closed too; raised below
                faults.append(error)
        if faults:
            raise faults[0]


def _point(name: str, *, installed: Mapping[str, EntryPoint]) -> EntryPoint:
    if (point := installed.get(name)) is None:
        known = ", ".join(sorted(installed)) or "none (is the landlord distribution installed?)"
        raise ConfigurationError(f"{KEY}: no {WHAT} {name!r}; installed: {known}")
    return point
