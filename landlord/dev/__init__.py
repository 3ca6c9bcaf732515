"""Launchers of real components on one machine: Postgres, a Kubernetes control plane, a Docker engine.

``landlord dev`` and the tests start the same things the same way. Nothing here outlives the process that started it.
"""
