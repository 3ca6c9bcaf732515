"""Landlord's domain: tenants, their workflows and their compute.

Everything the facades share lives here; it serves no HTTP (but for :mod:`landlord.health`) and knows no kopf.
"""
