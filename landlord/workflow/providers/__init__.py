"""Workflow engines. Nobody imports one but the registry, by entry point."""
