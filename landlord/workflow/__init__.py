"""Workflows: the provider interface, the engines behind it, and the tenant workflow that workers run on them."""
