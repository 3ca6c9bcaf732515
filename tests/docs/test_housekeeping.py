"""What ``docs/operating.md`` says may be deleted from the history is needed by nobody."""

from __future__ import annotations

import json
import re

from fixtures.components import ROOT

from landlord.database.statement import Statement
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
        database = installation.database
        for statement in AGED:
            await database.execute(Statement(statement))
        await database.execute(Statement(FORMER), values=json.dumps(former))
        for statement in STATEMENTS:
            await database.execute(Statement(statement))
        left = await database.execute(Statement("select execution_id from executions"))
        assert [row.execution_id for row in left] == ["tenant-acme-plan"], "what is in charge stays"
        assert await database.execute(Statement("select 1 from audit")) == []
        await installation.service.submit(Request(tenant_id="acme", command=Delete(), who="me", door=Door.API))
        tenant = (await installation.repository.load("acme")).tenant
        assert tenant is not None
        assert tenant.status is Status.DELETING
