"""The fixtures of :mod:`kubernetes_door.harness`."""

from kubernetes_door.harness import landlord

__all__ = ["landlord"]
