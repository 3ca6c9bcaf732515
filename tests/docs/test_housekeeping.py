"""What ``docs/operating.md`` says may be deleted from the history is needed by nobody."""

from __future__ import annotations

import json
import re

from fixtures.components import ROOT
from sqlalchemy import text

from landlord.installation import assemble
from landlord.settings import Settings
from landlord.tenants.commands import Create, Delete, Request
from landlord.tenants.model import Door, Status
from landlord.workflow.client import WorkflowClient
from landlord.workflow.providers.mock import MockProvider

PAGE = (ROOT / "docs" / "operating.md").read_text()
(_BLOCK,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
STATEMENTS = [each for each in _BLOCK.split(";") if each.strip()]
AGED = [
    "update executions set ended_at = now() - interval '2 years', state = 'failed'",
    "update audit set at = now() - interval '2 years'",
]
FORMER = """
insert into executions overriding system value select (jsonb_populate_record(e, :values)).* from executions e
where execution_id = 'tenant-acme-plan'
"""


async def test_old_history_may_go(test_database_url: str) -> None:
    assert len(STATEMENTS) == 2
    settings = Settings(database_url=test_database_url, compute_providers=("mock",))  # type: ignore[arg-type]
    async with (
        WorkflowClient(MockProvider(), trigger_timeout=5) as client,
        assemble(settings, client=client) as installation,
    ):
        create = Request(tenant_id="acme", command=Create(compute_config={}), who="me", door=Door.API)
        await installation.service.submit(create)
        former = {"execution_id": "tenant-acme-update", "action": "update", "seq": -1}
        async with installation.database.connect() as connection:
            for statement in AGED:
                await connection.execute(text(statement))
            await connection.execute(text(FORMER), {"values": json.dumps(former)})
            for statement in STATEMENTS:
                await connection.execute(text(statement))
            left = (await connection.execute(text("select execution_id from executions"))).scalars().all()
            trail = (await connection.execute(text("select count(*) from audit"))).scalar_one()
        assert left == ["tenant-acme-plan"], "what is in charge stays"
        assert trail == 0
        await installation.service.submit(Request(tenant_id="acme", command=Delete(), who="me", door=Door.API))
        tenant = (await installation.repository.load("acme")).tenant
        assert tenant is not None
        assert tenant.status is Status.DELETING
