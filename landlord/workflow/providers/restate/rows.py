"""Restate's word on a run in Landlord's terms. Pure: statements out, rows in.

The text of an engine's failure may hold addresses, so of what our own workflow did not write only the code is told.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from landlord.workflow.provider import ExecutionInfo, ExecutionState, WorkflowFailure

HANDLER = "run"
DIGEST_HEADER = "x-landlord-digest"
"""Sent with each trigger: Restate records the headers of an invocation, so whose it is can be read at once."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CANCEL_CODE = 409
"""Status code of the terminal error that ends a cancelled or killed run."""

_STATES = {
    "scheduled": ExecutionState.PENDING,
    "pending": ExecutionState.PENDING,
    "ready": ExecutionState.PENDING,
    "running": ExecutionState.RUNNING,
    "suspended": ExecutionState.RUNNING,
    "yielding": ExecutionState.RUNNING,
    "backing-off": ExecutionState.RETRYING,
    "paused": ExecutionState.PAUSED,
}
_UNREACHABLE = "RT0010"
"""https://docs.restate.dev/references/errors: the endpoint of the worker cannot be called."""
_COMPLETION = re.compile(r"\[(\d+)[^\]]*\] (.*)", re.DOTALL)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COLUMNS = (
    "id, target_service_key, created_at, status, completion_result, completion_failure,"
    " retry_count, last_failure_error_code"
)


def service(installation: str) -> str:
    """The name under which an installation's workflow is registered: two on one server never meet."""
    return f"landlord-{installation}"


def runs_by_key(name: str, keys: Collection[str]) -> str:
    """The runs of service ``name`` with these execution ids. The server looks at every invocation it keeps."""
    return (
        f"select {_COLUMNS} from sys_invocation where {_ours(name)}"  # noqa: S608 - quoted
        f" and target_service_key in ({_list(keys)})"
    )


def runs_by_id(ids: Collection[str]) -> str:
    """The runs with these ids of Restate's. The server looks at these only."""
    return f"select {_COLUMNS} from sys_invocation where id in ({_list(ids)})"  # noqa: S608 - quoted


def services(deployment: Any) -> set[str]:
    """The names of what a deployment serves, from the admin API's description of it."""
    found = deployment.get("services") if isinstance(deployment, dict) else None
    return {str(each.get("name")) for each in found or () if isinstance(each, dict)}


def last_end(name: str) -> str:
    """When a run of service ``name`` ended last."""
    return f"select max(completed_at) as completed_at from sys_invocation_status where {_ours(name)}"  # noqa: S608


def ends_since(name: str, when: datetime) -> str:
    """The runs of service ``name`` that ended after ``when``. The server looks at every invocation it keeps."""
    return (
        f"select target_service_key, completed_at from sys_invocation_status where {_ours(name)}"  # noqa: S608
        f" and completed_at > timestamp '{when.astimezone(UTC).isoformat(timespec='milliseconds')}'"
    )


def troubled(name: str) -> str:
    """The runs of service ``name`` that back off or are paused. The server looks at every invocation it keeps."""
    return (
        f"select target_service_key from sys_invocation where {_ours(name)}"  # noqa: S608 - quoted
        " and status in ('backing-off', 'paused')"
    )


def digests(ids: Collection[str]) -> str:
    """The digest header of these runs, from the first entry of their journals: name, a tag, the length (64), value."""
    name = DIGEST_HEADER.encode().hex()
    return (
        "select id, substr(hex, place + "  # noqa: S608 - quoted
        f"{len(name) + 4}, 128) as digest from (select id, encode(raw, 'hex') as hex,"
        f" strpos(encode(raw, 'hex'), '{name}1240') as place from sys_journal"
        f" where id in ({_list(ids)}) and index = 0) where place > 0"
    )


def digest(row: Mapping[str, Any]) -> str | None:
    try:
        found = bytes.fromhex(row["digest"]).decode("ascii")
    except ValueError:
        return None
    return found if _DIGEST.fullmatch(found) else None


def info(row: Mapping[str, Any], *, digest: str | None) -> ExecutionInfo:
    """One row of :func:`runs_by_id` or :func:`runs_by_key`, without its output."""
    state, failure = _state(row)
    return ExecutionInfo(
        execution_id=row["target_service_key"],
        state=state,
        digest=digest,
        attempt=max(1, row.get("retry_count") or 1),
        failure=failure,
        native_id=row["id"],
    )


def succeeded(row: Mapping[str, Any]) -> bool:
    """Only when the engine says so."""
    return row["status"] == "completed" and row.get("completion_result") == "success"


def _state(row: Mapping[str, Any]) -> tuple[ExecutionState, WorkflowFailure | None]:
    if row["status"] == "completed":
        if succeeded(row):
            return ExecutionState.SUCCEEDED, None
        return _ending(row.get("completion_failure") or "")
    # A status of a later release belongs to a run that has not ended.
    state = _STATES.get(row["status"], ExecutionState.RUNNING)
    return state, _trouble(state, row.get("last_failure_error_code"))


def _ending(text: str) -> tuple[ExecutionState, WorkflowFailure]:
    found = _COMPLETION.fullmatch(text)
    code, message = (int(found[1]), found[2]) if found else (0, "")
    if code == CANCEL_CODE and message in ("cancelled", "killed"):
        return ExecutionState.CANCELLED, WorkflowFailure(code="Cancelled", message=message)
    return ExecutionState.FAILED, WorkflowFailure(code="EngineFailure", message=f"Restate ended the run with {code}")


def _trouble(state: ExecutionState, code: str | None) -> WorkflowFailure | None:
    if state is ExecutionState.PAUSED:
        return WorkflowFailure(code="Paused", message="the run is paused in Restate: resume, cancel or kill it there")
    if code == _UNREACHABLE:
        return WorkflowFailure(code="WorkerUnreachable", message=f"Restate cannot reach the worker ({code})")
    if state is ExecutionState.RETRYING:
        return WorkflowFailure(code="WorkerLost", message=f"a worker left the run unfinished ({code or 'no code'})")
    return None


def time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _ours(name: str) -> str:
    return f"target_service_name = {_text(name)} and target_handler_name = {_text(HANDLER)}"


def _list(values: Collection[str]) -> str:
    return ", ".join(map(_text, values))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
