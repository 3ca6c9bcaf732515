"""docs/requirements.md: every scenario of the requirements has its test, and the table names it.

``python tests/api/test_requirements.py`` writes the table anew; scenarios stay, only the tests beside them change.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "requirements.md"
_ROW = re.compile(r"\| (?P<title>[^|]+?) \| (?P<tests>[^|]*?) \|")
_SCENARIO = re.compile(r"^Scenario: (.+)$", re.MULTILINE)


def scenarios() -> dict[str, list[str]]:
    """Titles in the tests' docstrings to the tests that carry them."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node.name.startswith("test_"):
                for title in _SCENARIO.findall(ast.get_docstring(node) or ""):
                    found.setdefault(title, []).append(f"`{path.relative_to(ROOT)}::{node.name}`")
    return found


def rows() -> Iterator[tuple[str, str]]:
    for line in TABLE.read_text().splitlines():
        row = _ROW.fullmatch(line)
        if row is not None and row["title"] not in ("Scenario", "---"):
            yield row["title"], row["tests"]


def test_every_scenario_has_a_test() -> None:
    tests = scenarios()
    table = dict(rows())
    assert len(table) > 40
    assert {title for title in table if title not in tests} == set()
    assert {title for title in tests if title not in table} == set()


def test_the_table_is_up_to_date() -> None:
    tests = scenarios()
    for title, named in rows():
        assert named == ", ".join(tests[title]), "run python tests/api/test_requirements.py"


def write() -> None:
    tests = scenarios()
    lines = []
    for line in TABLE.read_text().splitlines():
        row = _ROW.fullmatch(line)
        if row is not None and row["title"] not in ("Scenario", "---"):
            lines.append(f"| {row['title']} | {', '.join(tests.get(row['title'], []))} |")
        else:
            lines.append(line)
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write()
