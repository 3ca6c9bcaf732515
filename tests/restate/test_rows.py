"""Restate's rows in Landlord's terms: every status, and what a failure may tell."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from landlord.workflow.provider import ExecutionState, WorkflowFailure
from landlord.workflow.providers.restate import ending, rows
from landlord.workflow.providers.restate.engine import Answer

OWN = WorkflowFailure(code="Quota", message="no more", permanent=True, step="apply", details={"limit": 3})


def row(status: str, **more: Any) -> dict[str, Any]:
    return {"id": "inv_1", "target_service_key": "tenant-a-plan", "created_at": "x", "status": status, **more}


@pytest.mark.parametrize(
    ("given", "state", "code"),
    [
        (row("scheduled"), ExecutionState.PENDING, None),
        (row("pending"), ExecutionState.PENDING, None),
        (row("ready"), ExecutionState.PENDING, None),
        (row("running", retry_count=1), ExecutionState.RUNNING, None),
        (row("suspended"), ExecutionState.RUNNING, None),
        (row("a status of a later release"), ExecutionState.RUNNING, None),
        (row("backing-off", last_failure_error_code="RT0010"), ExecutionState.RETRYING, "WorkerUnreachable"),
        (row("backing-off"), ExecutionState.RETRYING, "WorkerLost"),
        (row("paused"), ExecutionState.PAUSED, "Paused"),
        (row("completed", completion_result="success"), ExecutionState.SUCCEEDED, None),
        (row("completed"), ExecutionState.FAILED, "EngineFailure"),
        (row("completed", completion_result="something new"), ExecutionState.FAILED, "EngineFailure"),
        (row("completed", completion_failure="[409] cancelled"), ExecutionState.CANCELLED, "Cancelled"),
        (row("completed", completion_failure="[409] killed"), ExecutionState.CANCELLED, "Cancelled"),
        (
            row("completed", completion_failure="[500 Internal] http://10.0.0.1 x"),
            ExecutionState.FAILED,
            "EngineFailure",
        ),
        (row("completed", completion_failure="[422] not ours"), ExecutionState.FAILED, "EngineFailure"),
    ],
)
def test_states(given: dict[str, Any], state: ExecutionState, code: str | None) -> None:
    info = rows.info(given, digest=None)
    assert (info.state, info.failure.code if info.failure else None) == (state, code)
    assert "10.0.0.1" not in str(info)


def test_our_own_failure_comes_back_whole() -> None:
    body = orjson.dumps({"code": 422, "message": ending.message(OWN, digest="d")})
    answer = Answer(status=422, body=body, source="invocation")
    assert ending.read(answer) == ending.Ending(digest="d", failure=OWN)


def test_an_output_comes_back_whole() -> None:
    answer = Answer(status=200, body=ending.result({"a": [1]}, digest="d"), source=None)
    assert ending.read(answer) == ending.Ending(digest="d", output={"a": [1]})


@pytest.mark.parametrize(
    ("status", "body", "source"),
    [
        (470, {"code": 470, "message": "not completed yet"}, "ingress"),
        (404, {"code": 404, "message": "not found"}, "ingress"),
        (409, {"code": 409, "message": "cancelled"}, "invocation"),
        (422, {"code": 422, "message": "somebody else's"}, "invocation"),
        (422, {"code": 422, "message": ending.message(OWN, digest="d")}, "ingress"),
        (422, {"code": 422, "message": "{}"}, "invocation"),
        (422, "no object", "invocation"),
        (200, {"output": "of another worker"}, None),
        (200, "no object", None),
    ],
)
def test_what_is_no_end_by_our_workers_word(status: int, body: Any, source: str | None) -> None:
    assert ending.read(Answer(status=status, body=orjson.dumps(body), source=source)) is None


def test_a_failure_that_is_no_json() -> None:
    strange = WorkflowFailure(code="Strange", message="x", details={"what": object()})
    body = orjson.dumps({"message": ending.message(strange, digest="d")})
    read = ending.read(Answer(status=422, body=body, source="invocation"))
    assert read is not None
    assert (read.digest, read.failure.code if read.failure else None) == ("d", "InternalError")


def test_retries_of_the_engine_are_told() -> None:
    assert rows.info(row("backing-off", retry_count=7), digest="d").attempt == 7


def test_what_is_put_into_a_statement_is_quoted() -> None:
    assert "('a''b')" in rows.runs_by_key("x", ["a'b"])
