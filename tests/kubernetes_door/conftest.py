"""The fixtures of :mod:`kubernetes_door.harness`."""

from kubernetes_door.harness import cluster, landlord

__all__ = ["cluster", "landlord"]
