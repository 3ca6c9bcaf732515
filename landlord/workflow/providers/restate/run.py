"""One attempt at one run, called by Restate: the engine-neutral workflow inside restate-sdk's context.

Steps go into Restate's journal under their names. A step that fails ends the run (the reconciler decides on another);
only what befalls the worker itself makes Restate try again, from the last step that is in the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from restate import TerminalError, WorkflowContext
from restate.exceptions import RetryableError
from restate.serde import BytesSerde, Serde
from restate.server_context import DisconnectedException

from landlord import canonical
from landlord.workflow.execution import Execute
from landlord.workflow.provider import RunFailed, WorkflowFailure
from landlord.workflow.providers.restate import ending
from landlord.workflow.providers.restate.rows import CANCEL_CODE

_BYTES: Serde[Any] = BytesSerde()
_log = structlog.get_logger(__name__)


class Run:
    """``slots`` bounds the steps that this process executes at a time."""

    def __init__(self, context: WorkflowContext, *, execute: Execute, slots: asyncio.Semaphore) -> None:
        self._context = context
        self._execute = execute
        self._slots = slots
        self._task = asyncio.current_task()
        self._acting: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._let_go = False

    def let_go(self) -> None:
        """Stop where it is and tell Restate to have it done elsewhere."""
        if not self._let_go and self._task is not None:
            self._let_go = True
            self._task.cancel()

    async def __call__(self, payload: bytes) -> bytes:
        """The run's result. Raises ``TerminalError`` where the run ends otherwise."""
        digest = canonical.digest(payload)
        log = _log.bind(execution_id=self._context.key())
        try:
            output = ending.result(await self._execute(payload, self.step), digest=digest)
        except RunFailed as error:
            log.info("run ended", state="failed", code=error.failure.code)
            raise _terminal(error.failure, digest=digest) from None
        except asyncio.CancelledError:
            if self._cancelled:
                log.info("run ended", state="cancelled")
                raise TerminalError("cancelled", status_code=CANCEL_CODE) from None
            if self._let_go:
                log.warning("run let go", why="stopping")
                raise RetryableError("the worker is stopping") from None
            raise
        except DisconnectedException:
            log.warning("run let go", why="Restate went away, or killed the run")
            raise
        except Exception as error:
            log.exception("run broke off")
            raise _terminal(_unexpected(error), digest=digest) from None
        log.info("run ended", state="succeeded")
        return output

    async def step(self, name: str, action: Callable[[], Awaitable[Any]], /) -> Any:
        """See :class:`landlord.workflow.execution.Step`."""

        async def act() -> bytes:
            self._acting = asyncio.current_task()
            async with self._slots:
                try:
                    return orjson.dumps(await action())
                except RunFailed as error:
                    raise _terminal(error.failure) from None
                except Exception as error:  # noqa: BLE001 - whatever a step raises is the end of its run only
                    _log.exception("step broke off", execution_id=self._context.key(), step=name)
                    raise _terminal(_unexpected(error, step=name)) from None

        try:
            return orjson.loads(await self._context.run(name, act, serde=_BYTES))
        except TerminalError as error:
            if error.status_code == CANCEL_CODE:
                self._cancelled = True
                raise asyncio.CancelledError from None
            raise RunFailed(WorkflowFailure.from_json(orjson.loads(error.message))) from None
        finally:
            # Restate's cancel, or its going away, ends the wait for the step and not the step.
            await self._still()

    async def _still(self) -> None:
        acting, self._acting = self._acting, None
        if acting is not None and not acting.done():
            acting.cancel()
            await asyncio.wait({acting})


def _unexpected(error: Exception, *, step: str | None = None) -> WorkflowFailure:
    return WorkflowFailure(code="InternalError", message=f"unexpected {type(error).__name__}", step=step)


def _terminal(failure: WorkflowFailure, *, digest: str = "") -> TerminalError:
    return TerminalError(ending.message(failure, digest=digest), status_code=ending.FAILURE_CODE)
