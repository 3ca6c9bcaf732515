"""Compute: the provider interface and the engines that make a tenant run."""
