"""What logs never hold."""

from __future__ import annotations

import subprocess
import sys

import orjson

PROGRAM = """
import logging, structlog
from landlord import logs
logs.configure(level="info", form="json")
def fail(): raise ValueError("s3cret")
try:
    fail()
except ValueError:
    structlog.get_logger("ours").exception("failed", tenant="acme")
    logging.getLogger("theirs").exception("failed too")
logging.getLogger("kopf.objects").info("chatter", extra={"settings": "s3cret"})
logging.getLogger("theirs").warning("odd", extra={"settings": "s3cret"})
"""


def test_an_exception_is_shown_by_type_and_place_never_by_its_text() -> None:
    finished = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert "s3cret" not in finished.stderr
    lines = [orjson.loads(line) for line in finished.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["failed", "failed too", "odd"]
    assert lines[0]["tenant"] == "acme"
    for line in lines[:2]:
        assert line["exception"] == "ValueError"
        assert line["where"][-1].endswith("fail")


ODD = """
import logging, structlog
from landlord import logs
logs.configure(level="info", form="json")
for value in ("\\udcff\\n", 2 ** 64, {1: 2}, float("nan"), b"\\xff"):
    structlog.get_logger("ours").warning("odd", value=value, tenant="acme")
logging.getLogger("theirs").warning("cannot read %s", "/etc/\\udcff")
"""


def test_whatever_is_logged_is_a_line_of_json() -> None:
    """The name of a file may be no text, and a number longer than JSON's readers take."""
    finished = subprocess.run([sys.executable, "-c", ODD], capture_output=True, text=True, check=True)
    lines = [orjson.loads(line) for line in finished.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["odd"] * 5 + ["'cannot read /etc/\\udcff'"]
    assert all(line["tenant"] == "acme" for line in lines[:5])
