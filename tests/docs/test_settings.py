"""The table of settings in ``docs/operating.md`` has all of them with their defaults.

``python tests/docs/test_settings.py`` writes it: meanings that were written by hand stay, those of new settings are
taken from ``landlord/settings.py``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from landlord import settings
from landlord.settings import PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
_HEAD = "| variable | default | meaning |\n| --- | --- | --- |\n"
_ROW = re.compile(r"\| `(?P<name>LANDLORD_[A-Z0-9_]+)` \| (?P<default>[^|]+) \| (?P<meaning>[^|]*) \|")


def _shown(value: Any) -> str:
    match value:
        case None | ():
            return "none"
        case SecretStr():
            return f"`{value.get_secret_value()}`"
        case tuple():
            return f"`{','.join(map(str, value))}`"
        case bool():
            return f"`{str(value).lower()}`"
        case _:
            return f"`{value}`"


def defaults() -> dict[str, str]:
    return {f"{PREFIX}{name.upper()}": _shown(field.default) for name, field in Settings.model_fields.items()}


def rows() -> dict[str, tuple[str, str]]:
    found = filter(None, map(_ROW.fullmatch, PAGE.read_text().splitlines()))
    return {row["name"]: (row["default"], row["meaning"]) for row in found}


def test_every_setting_is_there() -> None:
    table = rows()
    assert {name: default for name, (default, _) in table.items()} == defaults(), (
        "run python tests/docs/test_settings.py"
    )
    assert [name for name, (_, meaning) in table.items() if len(meaning) < 10] == []


def _said() -> Iterator[tuple[str, str]]:
    """What the module says of each."""
    tree = ast.parse(Path(settings.__file__).read_text())
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings").body
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = " ".join(str(after.value.value).replace("``", "`").split())
            yield f"{PREFIX}{node.target.id.upper()}", text.removesuffix(".")


def write() -> None:
    written, said = rows(), dict(_said())
    lines = []
    for name, default in defaults().items():
        meaning = written.get(name, ("", ""))[1] or said.get(name, "")
        lines.append(f"| `{name}` | {default} | {meaning} |\n")
    before, after = PAGE.read_text().split(_HEAD)
    after = "".join(line for line in after.splitlines(keepends=True) if not _ROW.fullmatch(line.rstrip("\n")))
    PAGE.write_text(before + _HEAD + "".join(lines) + after)


if __name__ == "__main__":
    write()
