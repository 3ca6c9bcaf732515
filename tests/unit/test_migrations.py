"""Sets of migrations, as the package ships them."""

from __future__ import annotations

import pytest

from landlord.database.migrate import Migrations
from landlord.tenants.migrations import MIGRATIONS as TENANTS
from landlord.workflow.providers.local.migrations import MIGRATIONS as LOCAL_ENGINE


@pytest.mark.parametrize("migrations", [TENANTS, LOCAL_ENGINE], ids=lambda each: each.name)
def test_files_are_named_by_their_revisions(migrations: Migrations) -> None:
    """What is checked without alembic is what alembic does."""
    from_first = [script.revision for script in reversed(list(migrations._script().walk_revisions()))]
    assert list(migrations.revisions) == from_first
    assert migrations.head == migrations._script().get_current_head()
