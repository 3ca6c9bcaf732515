"""The docker provider: what is done to the engine, and in which order, so that a killed worker leaves nothing broken.

Every step looks at what is there first. A container's name holds installation, tenant, generation and the hash of the
configuration, so two workers that do the same make one container. An update starts the new container beside the old
one where both can run (no fixed host port, writable volume or host network in common); else the old one is stopped
first, with no restart policy by which the engine would start it, and started again with its own if the new one does
not start. Images are pulled before anything is stopped or removed. :meth:`DockerProvider.retire` removes the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import structlog

from landlord.compute.config import faults as config_faults
from landlord.compute.config import with_defaults
from landlord.compute.provider import (
    ComputeError,
    ComputeProvider,
    ComputeSpec,
    ComputeState,
    ComputeStatus,
    ComputeUnavailable,
    ConfigFault,
    NewerGeneration,
    Outputs,
    PermanentComputeError,
)
from landlord.compute.providers.docker import container, rules, state
from landlord.compute.providers.docker.engine import STOP_TIMEOUT, Engine
from landlord.compute.providers.docker.faults import Conflict, ImageAbsent, PortTaken
from landlord.compute.providers.docker.schema import DEFAULTS, SCHEMA
from landlord.compute.providers.docker.state import Found
from landlord.settings import Settings

PORT_TURNS = 16
"""Tries to find free host ports. With 5000 tenants a try fails in 4 cases of 10."""
CREATE_TRIES = 5
STAYS_STOPPED = "no"
"""The restart policy of what is put aside."""
DESTROY_TIMEOUT = STOP_TIMEOUT + 60
"""Seconds until what is being removed must be gone."""
DESTROY_PAUSE = 0.1
"""Seconds between two looks at what is being removed by somebody else."""

log = structlog.get_logger(__name__)


class DockerProvider(ComputeProvider):
    """Runs each tenant as one container of the engine that the settings name."""

    name: ClassVar[str] = "docker"

    def __init__(self, *, settings: Settings) -> None:
        self._settings = settings
        self._engine = Engine(host=settings.docker_host, config_file=settings.docker_config_file)

    async def close(self) -> None:
        await self._engine.close()

    async def ready(self) -> None:
        await self._engine.ping()

    def config_schema(self) -> dict[str, Any]:
        return SCHEMA

    def config_defaults(self) -> dict[str, Any]:
        return dict(DEFAULTS)

    def validate(self, config: Mapping[str, Any]) -> Sequence[ConfigFault]:
        return rules.check(config, settings=self._settings)

    async def apply(self, spec: ComputeSpec) -> Outputs:
        """See the interface. A configuration that this worker's installation does not allow is refused here, too."""
        if wrong := config_faults(self, spec.config):
            raise PermanentComputeError("; ".join(f"{fault.path or '/'} {fault.message}" for fault in wrong))
        config = with_defaults(self, spec.config)
        digest = container.config_hash(config)
        found = await self._find(spec.tenant_id)
        self._fence(spec, [one.generation for one in found])
        own = next((one for one in found if one.generation == spec.generation and one.digest == digest), None)
        if own is None:
            # Before anything is removed or stopped: an image that cannot be pulled must not cost what runs.
            try:
                own = await self._create(spec, config=config, digest=digest, turn=0)
            except ComputeError:
                await self._revive_last(spec, digest=digest)
                raise
        others = await self._drop_useless(await self._others(spec, own))
        started = await self._start(spec, own, config=config, digest=digest, others=others)
        current = await self._engine.inspect(started.id)
        return state.outputs(
            current,
            publish_address=self._settings.docker_publish_address,
            config=spec.config,
            health=current.checked or "starting",
        )

    async def retire(self, tenant_id: str, *, generation: int) -> None:
        """Remove older containers, and of this generation all but the newest (defaults may have changed since)."""
        found = await self._find(tenant_id)
        newest = max((one.age for one in found if one.generation == generation), default=None)
        old = [
            one for one in found if one.generation < generation or (one.generation == generation and one.age != newest)
        ]
        await asyncio.gather(*(self._remove(one.id) for one in old))

    async def status(self, tenant_id: str) -> ComputeStatus:
        found = await self._find(tenant_id)
        if not found:
            return ComputeStatus(state=ComputeState.ABSENT)
        newest = found[-1]
        now = await self._engine.now() if newest.needs_clock else None
        return state.describe(newest, publish_address=self._settings.docker_publish_address, now=now)

    async def destroy(self, tenant_id: str, *, generation: int) -> None:
        """See the interface. Programs get their time to stop; named volumes of the tenant go with it."""
        owner = self._owner(tenant_id)
        try:
            async with asyncio.timeout(DESTROY_TIMEOUT):
                while doomed := _up_to(generation, await self._engine.generations(owner)):
                    await asyncio.gather(*(self._remove(id_) for id_ in doomed))
                    await asyncio.sleep(DESTROY_PAUSE)
                if await self._engine.generations(owner):
                    return  # newer ones, which go on using the volumes
                while doomed := _up_to(generation, await self._engine.volumes(owner)):
                    await asyncio.gather(*(self._engine.remove_volume(name) for name in doomed))
                    await asyncio.sleep(DESTROY_PAUSE)
        except TimeoutError:
            raise ComputeError(f"containers or volumes are still there after {DESTROY_TIMEOUT:g} s") from None

    async def _create(self, spec: ComputeSpec, *, config: Mapping[str, Any], digest: str, turn: int) -> Found:
        """A created container, or the one another worker has created meanwhile."""
        body = container.create_body(
            spec=spec,
            config=config,
            installation=self._settings.installation,
            publish_address=self._settings.docker_publish_address,
            turn=turn,
        )
        name = container.container_name(
            installation=self._settings.installation,
            tenant_id=spec.tenant_id,
            generation=spec.generation,
            digest=digest,
        )
        for _ in range(CREATE_TRIES):
            try:
                return await self._whole(self._create_fenced(spec, body, name=name))
            except ImageAbsent:
                await self._engine.pull(config["image"])
                continue
            except Conflict:
                found = await self._find(spec.tenant_id)
                theirs = [one for one in found if one.generation == spec.generation and one.digest == digest]
                if theirs:
                    return theirs[-1]
                await asyncio.sleep(DESTROY_PAUSE)  # the one of that name is being removed
        raise ComputeError(f"cannot create the container: the name {name} is taken, or its image vanishes")

    async def _create_fenced(self, spec: ComputeSpec, body: Mapping[str, Any], *, name: str) -> Found:
        """Another worker may have made a newer generation since the first look: then nothing is left of this one."""
        created = await self._engine.inspect(await self._engine.create(body, name=name))
        try:
            self._fence(spec, (await self._engine.generations(self._owner(spec.tenant_id))).values())
        except NewerGeneration:
            await self._engine.remove(created.id)
            raise
        return created

    async def _whole(self, creating: Coroutine[Any, Any, Found]) -> Found:
        """Cancelled, it is done to its end first, and what was made goes again unless somebody has started it: a worker
        that has lost its run hears of it in the midst of this, when the tenant may be gone already."""
        task = asyncio.ensure_future(creating)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            with contextlib.suppress(ComputeError, asyncio.CancelledError):
                await self._engine.discard(task.result().id)
            raise

    async def _start(
        self, spec: ComputeSpec, own: Found, *, config: Mapping[str, Any], digest: str, others: Sequence[Found]
    ) -> Found:
        """What runs then. Where nothing can be started, what was stopped for it is started again."""
        if own.state in ("running", "restarting"):
            return own
        if own.state == "paused":
            await self._engine.unpause(own.id)
            return own
        rivals = [one for one in others if one.claims & own.claims]
        try:
            for one in rivals:
                await self._put_aside(one.id)
            return await self._launch(spec, own, config=config, digest=digest)
        except (ComputeUnavailable, NewerGeneration):
            raise  # it may have started: the next attempt finds out; or all is another worker's affair now
        except ComputeError:
            # A worker killed in between leaves a rival stopped that only the next attempt can start again.
            for one in [one for one in rivals if one.active] or state.to_revive(others):
                await self._revive(one)
            raise

    async def _launch(self, spec: ComputeSpec, own: Found, *, config: Mapping[str, Any], digest: str) -> Found:
        """Start it, or another with other ports while one is taken that was chosen. What cannot start is removed."""
        turn = 0
        while True:
            try:
                if own.policy_in_force != own.restart_policy:
                    await self._engine.set_restart_policy(own.id, own.restart_policy)
                await self._engine.start(own)
                return own
            except ComputeUnavailable:
                raise
            except ComputeError as error:
                await self._engine.remove(own.id)
                turn += 1
                other_ports = isinstance(error, PortTaken) and container.chose(error.port, config=config)
                if turn == PORT_TURNS or not other_ports:
                    raise
            own = await self._create(spec, config=config, digest=digest, turn=turn)

    async def _put_aside(self, container_id: str) -> None:
        """Stop it for good: by its own restart policy an engine that is restarted would start it beside the new one.

        First it is stopped: what still serves is never without its policy. A worker that is killed in between leaves
        the second call to the next attempt, so both are made whatever the container looked like.
        """
        await self._engine.stop(container_id)
        await self._engine.set_restart_policy(container_id, STAYS_STOPPED)

    async def _revive(self, one: Found) -> None:
        """Start again what was put aside; its policy first, so that it never serves without."""
        try:
            await self._engine.set_restart_policy(one.id, one.restart_policy)
            await self._engine.start(one)
        except ComputeError as error:
            log.warning("old container not started again", container=one.id[:12], reason=str(error))

    async def _revive_last(self, spec: ComputeSpec, *, digest: str) -> None:
        """Where a container could not be created and nothing of the tenant runs, perhaps since an earlier attempt.

        Looks anew, as a pull takes minutes: where there is this very container by now or a newer one, another worker
        is at it.
        """
        found = await self._find(spec.tenant_id)
        wanted = (spec.generation, digest)
        if any(one.generation > spec.generation or (one.generation, one.digest) == wanted for one in found):
            return
        for one in state.to_revive(found):
            await self._revive(one)

    async def _drop_useless(self, others: Sequence[Found]) -> Sequence[Found]:
        """Remove what failed updates left; what stays.

        The oldest is what served last (:meth:`retire` removed all before it) and stays, as does everything that may
        be serving now.
        """
        kept = [one for index, one in enumerate(others) if index == 0 or one.serving]
        await asyncio.gather(*(self._remove(one.id) for one in others if one not in kept))
        return kept

    async def _remove(self, container_id: str) -> None:
        """Gracefully: a database gets its time to close its files. What cannot be stopped is killed."""
        try:
            await self._engine.stop(container_id)
        except ComputeUnavailable:
            raise
        except ComputeError as error:
            log.info("container not stopped before removal", container=container_id[:12], reason=str(error))
        await self._engine.remove(container_id)

    async def _others(self, spec: ComputeSpec, own: Found) -> list[Found]:
        """As they are now, as a pull takes minutes; without newer ones, which are another worker's affair."""
        found = await self._find(spec.tenant_id)
        return [one for one in found if one.id != own.id and one.generation <= spec.generation]

    async def _find(self, tenant_id: str) -> list[Found]:
        return await self._engine.find(self._owner(tenant_id))

    def _owner(self, tenant_id: str) -> dict[str, str]:
        return container.ownership(installation=self._settings.installation, tenant_id=tenant_id)

    @staticmethod
    def _fence(spec: ComputeSpec, generations: Iterable[int]) -> None:
        existing = max(generations, default=0)
        if existing > spec.generation:
            raise NewerGeneration(tenant_id=spec.tenant_id, asked=spec.generation, existing=existing)


def _up_to(generation: int, generations: Mapping[str, int]) -> list[str]:
    return [key for key, made in generations.items() if made <= generation]
