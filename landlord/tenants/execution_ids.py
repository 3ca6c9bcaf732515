"""Names of executions: ``tenant-{id}-{action}``, from the second run on with ``-{n}``.

Engines swallow or refuse an id that was used before, for a time that none of them promises; so an id is never used
twice, over all lives of a tenant.
"""

from __future__ import annotations

from landlord.tenants.model import Action


def execution_id(tenant_id: str, action: Action, n: int) -> str:
    """The id of the n-th run (from 1) of an action. At most 80 characters for n below 10^13."""
    base = f"tenant-{tenant_id}-{action}"
    return base if n == 1 else f"{base}-{n}"
