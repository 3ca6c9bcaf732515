"""The commands of ``docs/operating.md`` that have no place on a ``landlord dev``: a backup, a token, and others."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from fixtures.components import ROOT

from landlord.dev import postgres as launcher
from landlord_api.auth import Tokens

PAGE = (ROOT / "docs" / "operating.md").read_text()


def block(sign: str) -> str:
    """The one that has this in it."""
    (found,) = (each for each in re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if sign in each)
    return str(found)


def shell(script: str, *, folder: Path, **environment: str) -> None:
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env={**os.environ, **environment}, check=True
    )


def test_what_was_backed_up_comes_back(test_database_url: str, tmp_path: Path) -> None:
    dump, restore = block("pg_dump").splitlines()
    paths = os.pathsep.join([*map(str, launcher.candidates()), os.environ["PATH"]])
    settings = {"LANDLORD_DATABASE_URL": test_database_url, "PATH": paths}
    with psycopg.connect(test_database_url, autocommit=True) as connection:
        keep = "insert into purged_tenants (id, generation, version, counters) values ('acme', 1, 1, '{}')"
        kept = "select id from purged_tenants"
        connection.execute(keep)
        shell(dump, folder=tmp_path, **settings)
        connection.execute("delete from purged_tenants")
        shell(restore, folder=tmp_path, **settings)
        assert connection.execute(kept).fetchall() == [("acme",)]


def test_a_token_is_made_that_is_taken(tmp_path: Path) -> None:
    shell(block("openssl") + 'printf %s "$token" > token', folder=tmp_path)
    caller = Tokens(tmp_path / "tokens").caller(f"Bearer {(tmp_path / 'token').read_text()}")
    assert caller is not None
    assert (caller.name, caller.scope) == ("me", None)


@pytest.mark.parametrize("sign", ["jq -r", "my-context", "landlord migrate"])
def test_what_is_not_run_can_be_read_by_a_shell(sign: str, tmp_path: Path) -> None:
    finished = subprocess.run(["bash", "-n", "-c", block(sign)], cwd=tmp_path, capture_output=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, b"")
