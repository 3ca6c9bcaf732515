"""What is found by entry point, and may be anybody's: a provider that cannot be had is told in one line."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

from landlord.settings import ConfigurationError, Settings

_TELLING = (ImportError, AttributeError, SyntaxError, TypeError)
"""Their texts say what is wrong with the code. Those of others may hold what it was given."""


def make(point: EntryPoint, *, kind: type[Any], what: str, key: str, settings: Settings) -> Any:
    """The ``kind`` of provider that an entry point names, made of the settings. ``what`` it is to people, ``key`` its
    setting.

    Raises :class:`ConfigurationError` for whatever it raises itself.
    """
    try:
        loaded = point.load()
        if isinstance(loaded, type) and issubclass(loaded, kind):
            return loaded(settings=settings)
    except ConfigurationError:
        raise
    except Exception as error:
        why = str(error) if isinstance(error, _TELLING) else type(error).__name__
        raise ConfigurationError(f"{key}: {what} {point.name!r} ({point.value}) cannot be loaded: {why}") from error
    raise ConfigurationError(f"{key}: {what} {point.name!r} ({point.value}) is not a {kind.__name__}")
