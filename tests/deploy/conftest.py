"""The fixtures of :mod:`deploy.installation`."""

from deploy.installation import installation

__all__ = ["installation"]
