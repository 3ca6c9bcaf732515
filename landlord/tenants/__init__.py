"""Tenants: what is wanted of each, the state machine, accepting changes, and reconciling them with the engine."""
