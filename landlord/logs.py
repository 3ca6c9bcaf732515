"""Logs of every process: structlog, JSON or console, to stderr; the standard library's loggers come out the same."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor

DEPTH = 8
"""Frames shown of where an exception came from, the innermost."""


def configure(*, level: str, form: Literal["json", "console"]) -> None:
    """Set up structlog and the root logger. ``level`` is ``debug``, ``info``, ``warning`` or ``error``. Repeatable."""
    threshold = getattr(logging, level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(allow={"k8s_ref"}),
    ]
    rendering: list[Processor] = [
        _exception,
        structlog.processors.JSONRenderer(_dumps)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared[:-1],
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for noisy in ("aiohttp.access", "alembic", "asyncio", "urllib3", "kubernetes", "kopf"):
        logging.getLogger(noisy).setLevel(max(threshold, logging.WARNING))


def _exception(_: object, __: str, event: EventDict) -> EventDict:
    """An exception by its type and where it came from.

    Neither its text nor its traceback is shown: what Postgres or an engine says may hold values of a tenant.
    """
    given = event.pop("exc_info", None)
    error = sys.exception() if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = type(error).__name__
        event["where"] = [
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__, limit=-DEPTH)
        ]
    return event


def _dumps(event: EventDict, **_: object) -> str:
    try:
        return orjson.dumps(event, default=repr).decode()
    except orjson.JSONEncodeError:  # what JSON cannot hold is shown as Python writes it
        return orjson.dumps({name: _holdable(value) for name, value in event.items()}).decode()


def _holdable(value: object) -> object:
    try:
        return orjson.Fragment(orjson.dumps(value, default=repr))
    except orjson.JSONEncodeError:
        return ascii(value)
