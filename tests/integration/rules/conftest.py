"""The rules of design.md §4 one by one: each has a test that fails without it. Real Postgres, the scripted engine."""

from integration.rules.harness import engine, parts, reconciler, settings

__all__ = ["engine", "parts", "reconciler", "settings"]
