"""What a process loads at its start: each large package costs it a quarter of a second."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from importlib.metadata import entry_points

[command] = entry_points(group="landlord.commands", name=sys.argv[1])
command.load()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        ("api", {"alembic", "sqlalchemy", "kopf", "kubernetes", "aiodocker", "restate"}),
        ("worker", {"alembic", "kopf", "kubernetes", "sqlalchemy", "psycopg", "aiodocker", "restate"}),
        ("controller", {"alembic", "sqlalchemy", "kopf", "kubernetes", "aiodocker", "restate"}),
        ("operator", {"alembic", "sqlalchemy", "aiodocker", "restate"}),
        ("dev", {"alembic", "sqlalchemy", "kopf", "kubernetes", "aiodocker", "restate"}),
    ],
)
def test_a_process_loads_only_what_it_uses(command: str, unwanted: set[str]) -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM, command], capture_output=True, text=True, check=True)
    assert set(answer.stdout.split()) & unwanted == set()
