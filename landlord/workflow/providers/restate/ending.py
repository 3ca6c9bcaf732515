"""The end of a run, as our worker hands it to Restate and as it is read there. Pure.

It carries the digest of what was run, so that one question to the ingress (a millisecond) tells how a run has ended and
that it is ours. What ends a run without our worker's word (cancel, kill) has none: see ``rows.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from landlord.workflow.provider import WorkflowFailure
from landlord.workflow.providers.restate.engine import Answer

FAILURE_CODE = 422
"""Status code of the terminal error that ends a failed run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    digest: str
    output: Any = None
    failure: WorkflowFailure | None = None


def result(output: Any, *, digest: str) -> bytes:
    """The result of a run. Raises ``TypeError`` for an output that is no JSON."""
    return orjson.dumps({"digest": digest, "output": output})


def message(failure: WorkflowFailure, *, digest: str = "") -> str:
    """The message of a terminal error: a step's, or with ``digest`` the run's."""
    try:
        text = orjson.dumps({**failure.to_json(), "digest": digest})
    except TypeError:  # a provider put in what is no JSON
        text = orjson.dumps({"code": "InternalError", "message": "the failure is no JSON", "digest": digest})
    return text.decode()


def read(answer: Answer) -> Ending | None:
    """From the ingress' answer to a question for the output; null where the run has not ended by our worker's word."""
    if answer.status != 200 and (answer.status, answer.source) != (FAILURE_CODE, "invocation"):
        return None
    try:
        value = orjson.loads(answer.body)
        if answer.status == 200:
            return Ending(digest=value["digest"], output=value["output"])
        value = orjson.loads(value["message"])
        return Ending(digest=value["digest"], failure=WorkflowFailure.from_json(value))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
