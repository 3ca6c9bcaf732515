"""The workflow provider of this installation, found by entry point, so that a third party's needs no change here."""

from __future__ import annotations

from importlib.metadata import entry_points

from landlord import plugins
from landlord.settings import PREFIX, ConfigurationError, Settings
from landlord.workflow.provider import WorkflowProvider

GROUP = "landlord.workflow_providers"
KEY = f"{PREFIX}WORKFLOW_PROVIDER"


def names() -> tuple[str, ...]:
    """The providers that are installed; the setting must be one of them."""
    return tuple(sorted(entry_points(group=GROUP).names))


def create(*, settings: Settings) -> WorkflowProvider:
    """The configured provider, not started. Imports no other. Raises :class:`ConfigurationError`."""
    points = entry_points(group=GROUP, name=settings.workflow_provider)
    if not points:
        allowed = ", ".join(names()) or "none is installed"
        raise ConfigurationError(f"{KEY}: unknown workflow provider {settings.workflow_provider!r}; allowed: {allowed}")
    made: WorkflowProvider = plugins.make(
        next(iter(points)), kind=WorkflowProvider, what="workflow provider", key=KEY, settings=settings
    )
    return made
