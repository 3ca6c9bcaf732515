"""The worker of Restate: an HTTP/2 server that Restate calls, and its registration there.

restate-sdk: https://docs.restate.dev/develop/python/overview. Served in this process's own event loop, without TLS
(h2c), so it listens on loopback unless the installation says otherwise.
"""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from typing import Any

import restate
import restate.server
import structlog
from restate import InvocationRetryPolicy, TerminalError, Workflow, WorkflowContext
from restate.serde import BytesSerde

from landlord.settings import ConfigurationError, Settings
from landlord.workflow.callback import Callbacks
from landlord.workflow.execution import Execute, Worker
from landlord.workflow.provider import ProviderUnavailable
from landlord.workflow.providers.restate import rows
from landlord.workflow.providers.restate.engine import Engine
from landlord.workflow.providers.restate.run import Run
from landlord.workflow.providers.restate.server import Application, Receive, Send, Server

GRACE = 5.0
"""Seconds that runs get to finish once the worker is to stop."""
HAND_BACK = 3.0
"""Seconds for telling Restate of those that did not."""
RETRY_FIRST = timedelta(milliseconds=100)
RETRY_MOST = timedelta(seconds=3)
"""Between Restate's attempts at a worker that is away."""
RETRY_ATTEMPTS = 2**31 - 1
"""As good as unlimited: an outage of the workers must not pause or fail a run."""
REGISTER_AGAIN = 10.0
"""Seconds between looks whether the engine still knows the workflow (it may have lost its data)."""
REGISTER_FIRST = 0.2
"""Seconds before a failed registration is tried again; doubles up to :data:`REGISTER_AGAIN`."""

_log = structlog.get_logger(__name__)


def _no_hook(*_: object, **__: object) -> None:
    """The SDK would take SIGTERM from the process that embeds it, which would no longer hear that it is to stop."""


restate.server.install_shutdown_hook = _no_hook


class RestateWorker(Worker):
    """Serves one installation's workflow. ``execute`` is the workflow itself."""

    def __init__(self, engine: Engine, execute: Execute, *, settings: Settings) -> None:
        self._engine = engine
        self._execute = execute
        self._settings = settings
        self._service = rows.service(settings.installation)
        self._bind = f"{_host(settings.restate_worker_host)}:{settings.restate_worker_port}"
        self._url = settings.restate_worker_url or f"http://{self._bind}"
        self._runs: set[Run] = set()
        self._calls: dict[asyncio.Task[Any], str] = {}
        """Restate's calls under way, and the run that has ended in each ('' for none)."""
        self._callbacks = Callbacks(settings=settings)
        self._unregistered: str | None = "restate: this worker has not registered yet"

    @property
    def fault(self) -> str | None:
        """That other workers have made Restate know the workflow does not say that it calls this one."""
        return self._unregistered

    async def run(self, stop: asyncio.Event) -> None:
        """See :class:`landlord.workflow.execution.Worker`. Raises ``ConfigurationError`` if it cannot listen."""
        async with self._callbacks.running():
            await self._run(stop)

    async def _run(self, stop: asyncio.Event) -> None:
        self._slots = asyncio.Semaphore(self._settings.worker_concurrency)
        endpoint = restate.app(
            services=[self._workflow()], identity_keys=list(self._settings.restate_worker_identity_keys)
        )
        async with Server(self._tracked(endpoint)).listening(self._listen()) as refuse:
            registering = asyncio.create_task(self._keep_registered())
            try:
                await stop.wait()
                await refuse()
                await self._drain()
            finally:
                registering.cancel()
                await asyncio.gather(registering, return_exceptions=True)
                await self._break_off()

    def _workflow(self) -> Workflow:
        settings = self._settings
        # A step that is under way looks inactive to Restate; the reconciler ends what takes longer than the deadline.
        longest = timedelta(seconds=max(settings.execution_deadline, 2 * settings.compute_health_timeout))
        retention = timedelta(seconds=settings.restate_retention)
        workflow = Workflow(
            self._service,
            inactivity_timeout=longest,
            abort_timeout=longest,
            journal_retention=retention,
            invocation_retry_policy=InvocationRetryPolicy(
                initial_interval=RETRY_FIRST,
                exponentiation_factor=2.0,
                max_interval=RETRY_MOST,
                max_attempts=RETRY_ATTEMPTS,
                on_max_attempts="pause",
            ),
        )

        @workflow.main(
            name=rows.HANDLER, input_serde=BytesSerde(), output_serde=BytesSerde(), workflow_retention=retention
        )
        async def handle(context: WorkflowContext, payload: bytes) -> bytes:
            run = Run(context, execute=self._execute, slots=self._slots)
            self._runs.add(run)
            try:
                output = await run(payload)
            except TerminalError:
                self._ended(context.key())
                raise
            finally:
                self._runs.discard(run)
            self._ended(context.key())
            return output

        return workflow

    def _listen(self) -> socket.socket:
        """From here on nobody who connects is refused: Restate may be told of this address at once."""
        host, port = self._settings.restate_worker_host, self._settings.restate_worker_port
        try:
            return socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
            )
        except OSError as error:
            raise ConfigurationError(
                f"LANDLORD_RESTATE_WORKER_PORT: cannot listen on {self._bind}: {error.strerror}"
            ) from None

    def _tracked(self, endpoint: Any) -> Application:
        async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._calls[task] = ""
            try:
                await endpoint(scope, receive, send)
            finally:
                # Only now does Restate know of an end.
                if ended := self._calls.pop(task):
                    self._callbacks.send(ended)

        return app

    def _ended(self, execution_id: str) -> None:
        """The SDK runs a handler in the task of the call."""
        task = asyncio.current_task()
        assert task is not None
        self._calls[task] = execution_id

    async def _drain(self) -> None:
        """Let what runs come to its end; hand back what does not in time."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=GRACE)
        for run in list(self._runs):
            run.let_go()
        if self._calls:
            await asyncio.wait(self._calls, timeout=HAND_BACK)

    async def _break_off(self) -> None:
        while self._calls:  # the SDK takes one cancellation for the end of its handler
            for call in self._calls:
                call.cancel()
            await asyncio.wait(self._calls, timeout=0.05)

    async def _keep_registered(self) -> None:
        """Make Restate know this worker's address, once, and again should it forget all of the workflow."""
        force = self._settings.restate_worker_force_registration
        registered, pause, told = False, REGISTER_FIRST, ""
        while True:
            try:
                if registered:
                    registered = (await self._engine.admin("GET", f"/services/{self._service}")).status != 404
                if not registered:
                    await self._register(force=force)
                    _log.info("registered", service=self._service, address=self._url)
                    registered, force, self._unregistered = True, False, None
                pause, told = REGISTER_AGAIN, ""
            except ProviderUnavailable as error:
                if not registered:
                    self._unregistered = str(error)
                if str(error) != told:
                    told = str(error)
                    _log.warning("cannot register the worker", reason=told, address=self._url)
                pause = REGISTER_AGAIN if registered else min(2 * pause, REGISTER_AGAIN)
            await asyncio.sleep(pause)

    async def _register(self, *, force: bool) -> None:
        """Of an address that is known Restate asks nothing again, unless ``force``."""
        answer = await self._engine.admin("POST", "/deployments", value={"uri": self._url, "force": force})
        if answer.status not in (200, 201):
            raise ProviderUnavailable(
                f"restate: does not take the worker ({answer.code or answer.status}): LANDLORD_RESTATE_WORKER_URL must"
                " be an address where Restate reaches it"
            )
        if self._service not in rows.services(answer.json()):
            raise ProviderUnavailable(
                "restate: knows the worker's address as that of another installation: give this one another"
                " LANDLORD_RESTATE_WORKER_URL, or remove that deployment from Restate"
            )


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
