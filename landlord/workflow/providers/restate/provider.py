"""Restate as a workflow provider: one workflow service per installation, keyed by execution id."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from landlord.settings import ConfigurationError, Settings
from landlord.workflow.execution import Execute, Worker
from landlord.workflow.provider import (
    ExecutionInfo,
    ExecutionNotFound,
    ExecutionState,
    InvalidRequest,
    ProviderUnavailable,
    TriggerResult,
    TriggerTimeout,
    WorkflowProvider,
    WorkflowRequest,
)
from landlord.workflow.providers.restate import ending, rows
from landlord.workflow.providers.restate.endings import IDLE, SHORTEST, endings
from landlord.workflow.providers.restate.engine import Engine

REMEMBERED = 20_000
"""Runs whose id at Restate's and whose digest are kept in mind, so that nothing is searched for by key again."""
FEW = 8
"""So many runs are asked one by one whether they have ended, before the slower question what they do. Of more than that
only those that would have to be searched for by key."""
_ID = re.compile(r"[A-Za-z0-9-]+")

Key = TypeVar("Key")


class RestateProvider(WorkflowProvider):
    """A run is a workflow of Restate's: its key, the execution id, can be used once, which is what makes it idempotent.

    Workers register themselves (:meth:`register` has nothing to do): only they have an address to be called at.
    """

    name = "restate"

    def __init__(self, *, settings: Settings) -> None:
        self._settings = settings
        self._service = rows.service(settings.installation)
        self._engine = Engine(settings=settings)
        self._known = _Memory()

    async def close(self) -> None:
        await self._engine.close()

    async def ready(self) -> None:
        await self._engine.ready()
        if (await self._engine.admin("GET", f"/services/{self._service}")).status != 200:
            raise self._unregistered()

    async def trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        self.check(request)
        try:
            async with asyncio.timeout(timeout):
                return await self._trigger(request, timeout=timeout)
        except TimeoutError:
            raise TriggerTimeout(f"restate: no answer from the ingress within {timeout:g} s") from None

    async def _trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        answer = await self._engine.ingress(
            "POST",
            f"/{self._service}/{request.execution_id}/{rows.HANDLER}/send",
            data=request.payload,
            headers={rows.DIGEST_HEADER: request.digest},
            timeout=timeout,
        )
        if answer.status == 404 and answer.source == "ingress":
            raise self._unregistered()
        if answer.status in (400, 413, 415) and answer.source == "ingress":
            raise InvalidRequest(f"restate refuses the request ({answer.status})")
        value = answer.json() if answer.status in (200, 202) else None
        if not isinstance(value, dict) or "invocationId" not in value:
            raise ProviderUnavailable(f"restate: what answers ({answer.status}) is no Restate ingress")
        native = str(value["invocationId"])
        created = value.get("status") == "Accepted"
        digest = request.digest if created else (await self._digests([native])).get(native)
        self._known.ids.learn([(request.execution_id, native)])
        return TriggerResult(execution_id=request.execution_id, created=created, digest=digest)

    async def get_many(self, execution_ids: Sequence[str]) -> dict[str, ExecutionInfo]:
        few = len(execution_ids) <= FEW
        ended = await self._ended(name for name in execution_ids if few or name not in self._known.ids)
        found = await self._rows([name for name in execution_ids if name not in ended])
        ended |= await self._ended([name for name, row in found.items() if row["status"] == "completed"])
        others = {name: row for name, row in found.items() if name not in ended}
        await self._learn_digests(others.values())
        # What succeeded without saying what was run is not of our worker's making.
        digests = {
            name: None if rows.succeeded(row) else self._known.digests.get(_life(row)) for name, row in others.items()
        }
        return ended | {name: rows.info(row, digest=digests[name]) for name, row in others.items()}

    async def cancel(self, execution_id: str, *, reason: str, force: bool = False) -> None:
        """Restate keeps no ``reason``. A run whose worker is away takes the wish and ends when one is back, unless
        ``force``, which ends it at once and without a word to the worker."""
        row = (await self._rows([execution_id])).get(execution_id)
        if row is None:
            raise ExecutionNotFound(f"restate does not know execution {execution_id}")
        if row["status"] == "completed":
            return
        answer = await self._engine.admin("PATCH", f"/invocations/{row['id']}/{'kill' if force else 'cancel'}")
        if answer.status == 404:
            raise ExecutionNotFound(f"restate does not know execution {execution_id}")
        if answer.status not in (200, 202, 409):  # 409: it has ended meanwhile
            raise ProviderUnavailable(f"restate: the admin API does not cancel ({answer.status})")

    def completions(self) -> AsyncIterator[str]:
        idle = IDLE if self._settings.callback_url else SHORTEST
        return endings(self._engine, service=self._service, idle=idle)

    def worker(self, execute: Execute) -> Worker:
        try:
            from landlord.workflow.providers.restate.worker import RestateWorker
        except ImportError as error:
            raise ConfigurationError(f"the Restate worker needs `pip install 'landlord[restate]'`: {error}") from error
        return RestateWorker(self._engine, execute, settings=self._settings)

    def _unregistered(self) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"restate: no worker of this installation has registered service {self._service}: start `landlord worker`"
        )

    async def _rows(self, execution_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Restate's rows by execution id; those asked for by key are found by id from then on."""
        wanted = {name for name in execution_ids if _ID.fullmatch(name)}
        ids = {name: self._known.ids[name] for name in wanted if name in self._known.ids}
        keys = wanted - ids.keys()
        asked = [rows.runs_by_id(ids.values())] if ids else []
        asked += [rows.runs_by_key(self._service, keys)] if keys else []
        answers = await asyncio.gather(*map(self._engine.query, asked))
        found = {row["target_service_key"]: row for answer in answers for row in answer}
        self._known.ids.learn((name, row["id"]) for name, row in found.items())
        return found

    async def _digests(self, ids: Sequence[str]) -> dict[str, str]:
        if not ids:
            return {}
        read = {row["id"]: rows.digest(row) for row in await self._engine.query(rows.digests(ids))}
        return {name: digest for name, digest in read.items() if digest is not None}

    async def _learn_digests(self, found: Iterable[Mapping[str, Any]]) -> None:
        unread = [row for row in found if _life(row) not in self._known.digests]
        read = await self._digests([row["id"] for row in unread])
        self._known.digests.learn((_life(row), read[row["id"]]) for row in unread if row["id"] in read)

    async def _ended(self, execution_ids: Iterable[str]) -> dict[str, ExecutionInfo]:
        """Those among these runs that have ended by our worker's word."""
        wanted = sorted({name for name in execution_ids if _ID.fullmatch(name)})
        paths = (f"/restate/workflow/{self._service}/{name}/output" for name in wanted)
        answers = await asyncio.gather(*(self._engine.ingress("GET", path) for path in paths))
        read = {name: ending.read(answer) for name, answer in zip(wanted, answers, strict=True)}
        return {
            name: ExecutionInfo(
                execution_id=name,
                state=ExecutionState.SUCCEEDED if found.failure is None else ExecutionState.FAILED,
                digest=found.digest,
                failure=found.failure,
                output=found.output,
                native_id=self._known.ids.get(name),
            )
            for name, found in read.items()
            if found is not None
        }


class _Newest(dict[Key, str]):
    """Forgets the oldest where there are more than :data:`REMEMBERED`."""

    def learn(self, found: Iterable[tuple[Key, str]]) -> None:
        self.update(found)
        while len(self) > REMEMBERED:
            del self[next(iter(self))]


class _Memory:
    """What never changes of a run: its id follows from its key; its digest is that of one life of the id."""

    def __init__(self) -> None:
        self.ids: _Newest[str] = _Newest()
        self.digests: _Newest[tuple[str, str]] = _Newest()


def _life(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["id"], row["created_at"]
