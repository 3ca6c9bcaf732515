"""Plans that stay right: made while the tables are empty and kept, they must not read a table as a whole later."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from landlord.database.engine import Database
from landlord.database.statement import Statement
from landlord.tenants import sql
from landlord.workflow.providers.local import statements

HOLDS = {"installation": "i", "execution_id": ["a"], "fence": [1]}
STATEMENTS: dict[str, tuple[Statement, dict[str, Any]]] = {
    "load": (sql.LOAD, {"ids": '["a", "b"]'}),
    "commit": (sql.COMMIT, {"changes": "[]"}),
    "page": (
        sql.page(status=False, compute_provider=False, labels=False, include_deleted=False, after=True),
        {"after": "a", "limit": 100},
    ),
    "look at": (sql.LOOK_AT, {"items": "[]"}),
    "owners": (sql.OWNERS, {"ids": ["a"]}),
    "insert": (statements.INSERT, {"installation": "i", "requests": "[]"}),
    "claim": (statements.CLAIM, {"installation": "i", "most": 10, "worker": "w", "held": ["a"], "lease": 1.0}),
    "claim tenants": (sql.CLAIM, {"limit": 10, "lease": 1.0}),
    "purge": (statements.PURGE, {"installation": "i", "most": 10, "retention": 1.0}),
    "read": (statements.READ, {"installation": "i", "ids": ["a"]}),
    "renew": (statements.RENEW, {**HOLDS, "lease": 1.0}),
    "checkpoint": (statements.CHECKPOINT, {**HOLDS, "name": ["a"], "output": [""], "lease": 1.0}),
    "finish": (statements.FINISH, {**HOLDS, "state": ["a"], "output": [""], "failure": [""]}),
    "hand back": (statements.HAND_BACK, HOLDS),
}
TABLES = r"(?:tenants|executions|local_executions|local_steps|purged_tenants)"
WHOLE = re.compile(rf"Seq Scan on {TABLES}\b")
BY_KEY = re.compile(rf"Index (?:Only )?Scan using \w+ on {TABLES}\b.*\n(?:\s*(?!Index Cond).*\n)?\s*Index Cond: (.*)")
KEYS = ("execution_id", "tenant_id", "id =", "id >", "due_at", "ended_at", "next_check_at")


@pytest.fixture
async def database(test_database_url: str) -> AsyncIterator[Database]:
    async with Database(SecretStr(test_database_url), pool_size=1) as database:
        yield database


async def explained(database: Database, name: str) -> str:
    statement, parameters = STATEMENTS[name]
    async with await database.open() as connection:
        cursor = psycopg.AsyncRawCursor(connection)
        await cursor.execute(b"explain " + statement.sql, statement.arguments(parameters))
        return "".join(f"{line}\n" for (line,) in await cursor.fetchall())


@pytest.mark.parametrize("name", STATEMENTS)
async def test_rows_are_looked_up_by_key_from_the_first_plan_on(database: Database, name: str) -> None:
    plan = await explained(database, name)
    assert not WHOLE.search(plan), plan
    conditions = BY_KEY.findall(plan)
    assert all(any(key in condition for key in KEYS) for condition in conditions), plan
    assert conditions or "Bitmap" in plan or name == "insert", plan


async def test_a_page_looks_the_runs_of_its_tenants_up(database: Database) -> None:
    """However many executions there are: one look-up for each row."""
    plan = await explained(database, "page")
    assert re.search(r"Index Cond: \(\(?execution_id = t\.head\)", plan), plan
