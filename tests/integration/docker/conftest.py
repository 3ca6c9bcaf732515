"""The docker provider against a real engine."""

from integration.docker.harness import docker, free_port, make, provider, tenant, watched

__all__ = ["docker", "free_port", "make", "provider", "tenant", "watched"]
