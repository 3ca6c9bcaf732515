"""What must be true of the repository itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Put together, so that this file does not name them itself.
PATHS = re.compile("/" + r"(root/|home/[a-z]|Users/|work/|opt/wheels)")
REGISTRIES = re.compile(
    r"(--(extra-)?index-url|--find-links|--trusted-host)[ =]|//[^\s/'\"]*(pythonhosted|proxy\.golang)"
)


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_operator_never_shadows_the_standard_library() -> None:
    """With ``operator/__init__.py`` every ``python -m`` from the checkout would fail."""
    assert (ROOT / "operator").is_dir()
    assert not (ROOT / "operator" / "__init__.py").exists()


@pytest.mark.parametrize("pattern", [PATHS, REGISTRIES], ids=["paths", "registries"])
def test_no_file_knows_one_machine_or_its_registries(pattern: re.Pattern[str]) -> None:
    found = []
    for path in _tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if pattern.search(line)
        ]
    assert found == []


def test_every_locked_dependency_has_hashes() -> None:
    """And nothing but a name, a version, a marker and hashes: no index, no address, no path."""
    entries = re.sub(r"\\\n", "", (ROOT / "requirements.lock").read_text()).splitlines()
    locked = [entry for entry in entries if entry.strip() and not entry.lstrip().startswith("#")]
    assert len(locked) > 20
    shape = re.compile(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s;@/]+( ; [^/@]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
    assert [entry[:100] for entry in locked if not shape.fullmatch(entry)] == []


def test_go_modules_of_the_control_plane_are_pinned() -> None:
    folder = ROOT / "landlord" / "dev" / "kubernetes_go"
    assert " h1:" in (folder / "go.sum").read_text()
    assert "replace" not in (folder / "go.mod").read_text()
