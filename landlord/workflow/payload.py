"""The whole tenant context that a run carries, so that a worker needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from landlord import canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPayload:
    """Input of the tenant workflow. Holds no time stamps and no request ids: engines compare the bytes."""

    installation: str
    execution_id: str
    tenant_id: str
    incarnation: str
    generation: int
    action: str
    """``plan``, ``provision``, ``update`` or ``delete``."""
    attempt: int
    """Tries of this action for this generation, from 1 (not the ``n`` of the execution id)."""
    compute_provider: str
    desired_config: dict[str, Any]
    """With defaults filled in."""
    observed_config: dict[str, Any] | None

    def dumps(self) -> bytes:
        """Canonical bytes: the same payload always gives the same."""
        return canonical.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def loads(cls, data: bytes) -> TenantPayload:
        return cls(**orjson.loads(data))
