"""Other releases of Landlord, made by what they change; called in the process that is to be that release."""

from __future__ import annotations

from typing import Any

from landlord.compute.providers.mock import MockProvider


def other_defaults() -> None:
    """A release whose mock provider has other defaults, and one more."""
    before = MockProvider.config_defaults

    def config_defaults(self: MockProvider) -> dict[str, Any]:
        return {**before(self), "delay_seconds": 0.01, "new_in_this_release": {"on": True}}

    MockProvider.config_defaults = config_defaults  # type: ignore[method-assign]
