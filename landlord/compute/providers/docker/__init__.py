"""Tenants as containers of one Docker engine."""

from landlord.compute.providers.docker.provider import DockerProvider

__all__ = ["DockerProvider"]
