"""Everything of Landlord in one process tree, on this machine: what ``landlord dev`` runs."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import SecretStr

from landlord.database.engine import Database
from landlord.dev import cluster, controlplane, definition, docker, folders, kubernetes_binaries, postgres, restate
from landlord.dev.ports import free_port, keep_port, on_free_port, probe
from landlord.dev.processes import Child, LauncherError, Unavailable
from landlord.dev.service import Service
from landlord.dev.watch import Watch, watching
from landlord.settings import Settings, load
from landlord.tenants.migrations import MIGRATIONS
from landlord.workflow import registry

Say = Callable[[str], None]
A = TypeVar("A")
B = TypeVar("B")
LOWER = 5
"""Niceness of what works behind the API."""
PATIENCE = 15.0
"""Seconds that a control plane which only has to be started may take before a controller reconciles meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line of ``landlord dev``."""

    port: int
    state: Path
    workflow: str
    compute: str
    kubernetes: str
    reset: bool


class Component(Protocol):
    """What Landlord works on, started here."""

    @property
    def children(self) -> list[Child]: ...


C = TypeVar("C", bound=Component)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    options: Options
    stack: AsyncExitStack
    watch: Watch
    environment: dict[str, str]
    logs: Path
    say: Say

    def service(self, name: str, *, port: int, nice: int = LOWER, **more: str) -> Service:
        return Service(
            name,
            port=port,
            environment={**os.environ, **self.environment, **more},
            log=self.logs / f"{name}.log",
            nice=nice,
        )

    async def component(self, launcher: AbstractAsyncContextManager[C]) -> C:
        """What the launcher starts. When it ends by itself, so does everything."""
        component = await self.stack.enter_async_context(launcher)
        for child in component.children:
            self.watch(child)
        return component

    async def started(self, service: Service) -> Service:
        self.stack.push_async_callback(service.stop)
        await service.start()
        return service

    async def background(self, name: str) -> Service:
        """A process without a public port."""

        async def started() -> Service:
            port = free_port()
            return await self.started(self.service(name, port=port, LANDLORD_HEALTH_PORT=str(port)))

        return await on_free_port(started)


class System:
    """What runs; :meth:`complete` brings the slower half."""

    def __init__(self, parts: _Parts, *, url: str, cluster: asyncio.Task[dict[str, str] | None]) -> None:
        self._parts = parts
        self._cluster = cluster
        self.url = url

    async def complete(self) -> str | None:
        """Bring what reconciles and the Kubernetes door; returns when everything that will serve is serving, and how
        kubectl comes to that door (null where it is not open).

        Where the control plane has to be built or is slow, a controller reconciles until the operator takes over.
        Where no cluster can be had it stays, and one line has said why.
        """
        parts = self._parts
        await asyncio.wait({self._cluster}, timeout=PATIENCE if kubernetes_binaries.find() else 0)
        controller = None
        if not self._cluster.done() or self._cluster.result() is None:
            controller = await parts.background("controller")
        environment = await self._cluster
        if environment is None:
            return None
        parts.environment.update(environment)
        await parts.background("operator")
        if controller is not None:
            await controller.stop()
        context = environment.get("LANDLORD_KUBERNETES_CONTEXT")
        return f"kubectl --context {context}" if context else f"kubectl --kubeconfig {environment['KUBECONFIG']}"


async def _together(first: Coroutine[None, None, A], second: Coroutine[None, None, B]) -> tuple[A, B]:
    """Both at once; what one raises ends the other."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


@asynccontextmanager
async def running(options: Options, *, say: Say) -> AsyncIterator[System]:
    """The system, with REST serving. ``say`` gets the lines a person should see.

    Raises :class:`LauncherError`, :class:`~landlord.settings.ConfigurationError`.
    """
    settings = load()  # before anything is started: the children read the same variables
    state = folders.existing(options.state)
    async with AsyncExitStack() as stack, watching(say=say) as watch:
        stack.enter_context(folders.held(state / "dev.lock", what=f"the state folder {state}"))
        _check_port(options.port)
        for port in (options.port, settings.restate_worker_port):
            keep_port(port)
        environment = {
            "LANDLORD_WORKFLOW_PROVIDER": options.workflow,
            "LANDLORD_INSTALLATION": os.environ.get("LANDLORD_INSTALLATION", f"dev-{folders.identity(state)}"),
            "LANDLORD_API_PORT": str(options.port),
            "LANDLORD_LOG_FORMAT": os.environ.get("LANDLORD_LOG_FORMAT", "console"),
        }
        environment |= await _compute(options, settings=settings, say=say)
        if options.reset:
            await _reset(options, environment=environment, say=say)
        environment |= _kubeconfig(options, state=state)
        logs = folders.existing(state / "logs")
        parts = _Parts(options=options, stack=stack, watch=watch, environment=environment, logs=logs, say=say)
        async with _beside(_cluster_or_word(parts)) as door:
            environment["LANDLORD_DATABASE_URL"], engine = await _together(_database(parts), _engine(parts))
            environment |= engine
            url = SecretStr(environment["LANDLORD_DATABASE_URL"])
            await _migrate(settings.model_copy(update={"database_url": url, "workflow_provider": options.workflow}))
            # Not without a worker: an engine that calls its workers takes no run before one has registered.
            api, _ = await _together(
                parts.started(parts.service("api", port=options.port, nice=0)), parts.background("worker")
            )
            say(f"serving: {api.address}")
            say(f"logs: {logs}")
            yield System(parts, url=api.address, cluster=door)


@asynccontextmanager
async def _beside(work: Coroutine[None, None, A]) -> AsyncIterator[asyncio.Task[A]]:
    """A task while the context lasts."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _check_port(port: int) -> None:
    """What has it may answer as ours would. Raises :class:`LauncherError`."""
    try:
        probe(port)
    except OSError as error:
        reason = f"port {port} cannot be had ({error.strerror})"
        raise LauncherError(f"{reason}: end what listens there, or take another with --port") from None


async def _reset(options: Options, *, environment: Mapping[str, str], say: Say) -> None:
    """Remove what the tenants of this state made, then the state."""
    from landlord.dev.reset import reset  # late, with the clients that a start does without

    await reset(
        state=options.state,
        installation=environment["LANDLORD_INSTALLATION"],
        docker_host=environment.get("LANDLORD_DOCKER_HOST"),
        kubernetes=options.kubernetes != "off",
        say=say,
    )


async def _compute(options: Options, *, settings: Settings, say: Say) -> dict[str, str]:
    """The default provider, and the Docker engine where it was found."""
    engine = await docker.find(host=settings.docker_host)
    environment = {"LANDLORD_DOCKER_HOST": engine.host} if engine else {}
    chosen = options.compute
    if chosen == "auto":
        chosen, why = _default_provider(settings, engine=engine)
        say(f"compute: {chosen} by default ({why})")
    elif chosen not in settings.compute_providers:
        there = ", ".join(settings.compute_providers)
        raise Unavailable(f"--compute {chosen}: LANDLORD_COMPUTE_PROVIDERS has {there}")
    elif chosen == "docker" and engine is None:
        raise Unavailable("no Docker engine answers: start one, set LANDLORD_DOCKER_HOST, or use --compute mock")
    return {**environment, "LANDLORD_COMPUTE_DEFAULT_PROVIDER": chosen}


def _default_provider(settings: Settings, *, engine: docker.Engine | None) -> tuple[str, str]:
    """What somebody has chosen, else docker where it can run, else another; and why."""
    if settings.compute_default_provider is not None:
        return settings.compute_default_provider, "LANDLORD_COMPUTE_DEFAULT_PROVIDER"
    if "docker" not in settings.compute_providers:
        return settings.default_compute_provider, "LANDLORD_COMPUTE_PROVIDERS"
    if engine is not None:
        return "docker", f"an engine answers, version {engine.version}"
    others = [name for name in settings.compute_providers if name != "docker"]
    return next(iter(others), "docker"), "no Docker engine answers"


async def _database(parts: _Parts) -> str:
    if given := os.environ.get("LANDLORD_DATABASE_URL"):
        parts.say("database: LANDLORD_DATABASE_URL")
        return given
    state = parts.options.state
    server = await parts.component(postgres.running(state=state))
    if server.moved:
        parts.say(f"database: its data are in {server.data}, because the user who runs Postgres cannot reach {state}")
    return await server.create_database(name="landlord")


async def _engine(parts: _Parts) -> dict[str, str]:
    """A Restate server of our own, where that is the provider and no other is named."""
    if parts.options.workflow != "restate":
        return {}
    state = parts.options.state
    environment = {
        # Its code changes here, and what runs goes on where it began.
        "LANDLORD_RESTATE_WORKER_FORCE_REGISTRATION": "true",
        "LANDLORD_RESTATE_WORKER_PORT": os.environ.get(
            "LANDLORD_RESTATE_WORKER_PORT", str(restate.worker_port(state=state))
        ),
    }
    if not (os.environ.get("LANDLORD_CALLBACK_URL") or os.environ.get("LANDLORD_API_TOKENS_FILE")):
        environment["LANDLORD_CALLBACK_URL"] = f"http://127.0.0.1:{parts.options.port}"  # which wants no token then
    if os.environ.get("LANDLORD_RESTATE_INGRESS_URL"):
        parts.say("workflow: restate (LANDLORD_RESTATE_INGRESS_URL)")
        return environment
    server = await parts.component(restate.running(state=state, nice=LOWER))
    parts.say(f"workflow: restate (ingress {server.ingress_url}, admin {server.admin_url})")
    return environment | {
        "LANDLORD_RESTATE_INGRESS_URL": server.ingress_url,
        "LANDLORD_RESTATE_ADMIN_URL": server.admin_url,
    }


async def _migrate(settings: Settings) -> None:
    async with Database(settings.database_url, pool_size=2) as database:
        await MIGRATIONS.upgrade(database)
    provider = registry.create(settings=settings)
    await provider.start()
    try:
        await provider.register()
    finally:
        await provider.close()


def _kubeconfig(options: Options, *, state: Path) -> dict[str, str]:
    """Where the API finds the cluster: it may come later, and the API mirrors only as well as it can."""
    if options.kubernetes == "off":
        return {"LANDLORD_KUBERNETES_MIRROR": "false"}
    if _context(options) is not None:  # is it another installation's? The operator finds out, and makes the mirrors
        return {"LANDLORD_KUBERNETES_MIRROR": "false"}
    kubeconfig = state / "kubeconfig"
    if not kubeconfig.exists():  # the first time there is nothing to read yet: the operator makes the mirrors
        return {"LANDLORD_KUBERNETES_MIRROR": "false"}
    return {"KUBECONFIG": str(kubeconfig)}


def _context(options: Options) -> cluster.Context | None:
    """The user's cluster that is to be used, if any. Raises :class:`Unavailable` for a name that does not exist."""
    found, current = cluster.contexts()
    if options.kubernetes == "auto":
        return next((context for context in found if context.name == current and context.local), None)
    if options.kubernetes in ("embedded", "off"):
        return None
    for context in found:
        if context.name == options.kubernetes:
            return context
    names = ", ".join(context.name for context in found) or "none"
    raise Unavailable(f"no context {options.kubernetes!r} in the kubeconfig; there are: {names}")


async def _cluster_or_word(parts: _Parts) -> dict[str, str] | None:
    """:func:`_cluster`, or null and a line that says why."""
    try:
        environment = await _cluster(parts)
    except LauncherError as error:
        parts.say(f"kubernetes: off ({error})")
        return None
    if environment is None:
        parts.say("kubernetes: off")
    return environment


async def _cluster(parts: _Parts) -> dict[str, str] | None:
    """Make sure there is a cluster with our resource; what the operator's environment needs. Null for none."""
    options = parts.options
    installation = parts.environment["LANDLORD_INSTALLATION"]
    if options.kubernetes == "off":
        return None
    context = _context(options)
    if context is not None:
        # Whether it is ours to use, nobody has said where it was merely found.
        share = options.kubernetes != "auto" or context.name in cluster.used(state=options.state)
        await definition.install_into(context=context.name, installation=installation, share=share)
        cluster.remember(context.name, state=options.state)
        parts.say(f"kubernetes: context {context.name}")
        return {"LANDLORD_KUBERNETES_CONTEXT": context.name}
    binaries = await kubernetes_binaries.find_or_build(progress=lambda line: parts.say(f"kubernetes: {line}"))
    plane = await parts.component(controlplane.running(binaries=binaries, state=parts.options.state, nice=LOWER))
    await definition.install(plane.request, installation=installation)
    parts.say(f"kubernetes: export KUBECONFIG={plane.kubeconfig}")
    if shutil.which("kubectl") is None:
        await parts.stack.enter_async_context(_beside(_kubectl(parts)))
    return {"KUBECONFIG": str(plane.kubeconfig)}


async def _kubectl(parts: _Parts) -> None:
    """Say where it is; the first time it is built while the cluster serves already."""
    try:
        binaries = await kubernetes_binaries.find_or_build(
            "kubectl", progress=lambda line: parts.say(f"kubectl: {line}")
        )
    except LauncherError as error:
        parts.say(f"kubectl: none ({error})")
    else:
        parts.say(f"kubectl: {binaries.kubectl or 'none'}")
