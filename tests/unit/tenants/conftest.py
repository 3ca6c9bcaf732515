"""The fixtures of :mod:`fixtures.lives`."""

from fixtures.lives import planning, ready, refused, unanswered

__all__ = ["planning", "ready", "refused", "unanswered"]
