"""Restate (https://restate.dev) as a workflow engine; needs a server 1.7 or later, workers the extra ``restate``."""

from landlord.workflow.providers.restate.provider import RestateProvider

__all__ = ["RestateProvider"]
