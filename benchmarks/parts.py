"""What is measured: Landlord's own processes on a private Postgres, by the launchers of ``landlord dev``."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psycopg
from prometheus_client.parser import text_string_to_metric_families

from landlord.database.engine import Database
from landlord.dev import processes, restate
from landlord.dev.ports import free_port
from landlord.dev.postgres import PostgresServer
from landlord.dev.service import Service
from landlord.settings import PREFIX, Settings
from landlord.tenants.migrations import MIGRATIONS
from landlord.workflow import registry

Connection = psycopg.AsyncConnection[tuple[object, ...]]


@dataclass(kw_only=True)
class Machine:
    """What every benchmark gets: a Postgres server, a folder for what is thrown away, how long to measure."""

    server: PostgresServer
    folder: Path
    seconds: float
    rounds: int
    _databases: int = field(default=0, init=False)

    @asynccontextmanager
    async def installation(self, *, engine: str = "local", **settings: str) -> AsyncIterator[Installation]:
        """A new database, migrated, its engine, and no process yet; ``settings`` by their names."""
        self._databases += 1
        name = f"benchmark_{self._databases}"
        url = await self.server.create_database(name=name)
        folder = self.folder / name
        folder.mkdir()
        environment = {
            "DATABASE_URL": url,
            "API_PORT": str(free_port()),
            "COMPUTE_DEFAULT_PROVIDER": "mock",
            "KUBERNETES_MIRROR": "false",
            "LOG_LEVEL": "warning",
            "WORKFLOW_PROVIDER": engine,
            **settings,
        }
        async with AsyncExitStack() as stack:
            if engine == "restate":
                server = await stack.enter_async_context(restate.running(state=folder))
                environment |= {
                    "RESTATE_INGRESS_URL": server.ingress_url,
                    "RESTATE_ADMIN_URL": server.admin_url,
                    "RESTATE_WORKER_PORT": str(free_port()),
                    "CALLBACK_URL": f"http://127.0.0.1:{environment['API_PORT']}",
                }
            found = Installation(database=url, folder=folder, environment=environment)
            stack.push_async_callback(found.stop)
            async with Database(found.settings.database_url, pool_size=2) as database:
                await MIGRATIONS.upgrade(database)
            provider = registry.create(settings=found.settings)
            await provider.start()
            await provider.register()
            await provider.close()
            yield found


class Installation:
    """Landlord on one database; its processes are started by name."""

    def __init__(self, *, database: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.database = database
        self.folder = folder
        self.settings = Settings(
            **{name.lower(): value for name, value in environment.items() if name.lower() in Settings.model_fields}
        )
        """Of all its processes, for what talks to the engine or the database itself."""
        self._ports = {"api": self.settings.api_port}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
            **{name if name == "KUBECONFIG" else PREFIX + name: value for name, value in environment.items()},
        }
        self._running: dict[str, Service] = {}

    async def start(self, *names: str) -> None:
        """``landlord NAME`` for each, ready when this returns."""
        for name in names:
            port = self._ports.get(name) or free_port()
            key = "API_PORT" if name == "api" else "HEALTH_PORT"
            service = Service(
                name,
                port=port,
                environment={**self._environment, PREFIX + key: str(port)},
                log=self.folder / f"{name}.log",
                nice=0,
            )
            self._running[name] = service
            await service.start()

    async def stop(self) -> None:
        for name in list(self._running):
            await self._running.pop(name).stop()

    def address(self, name: str) -> str:
        """Where that process serves HTTP."""
        return self._running[name].address

    @property
    def url(self) -> str:
        return self.address("api")

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[Connection]:
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as connection:
            yield connection

    async def metrics(self, name: str) -> dict[str, float]:
        """Of that process, those without labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.address(name)}/metrics") as response:
            text = await response.text()
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not sample.labels
        }


@asynccontextmanager
async def hello(*, folder: Path) -> AsyncIterator[str]:
    """The URL of the bare server that bounds every HTTP figure."""
    port = free_port()
    program = Path(__file__).with_name("hello.py")
    child = await processes.start([sys.executable, program, str(port)], name="hello", log=folder / "hello.log")
    url = f"http://127.0.0.1:{port}"
    try:
        await processes.until(lambda: _answers(url), child=child, timeout=30)
        yield url
    finally:
        await child.kill()


async def _answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def say(what: str) -> None:
    """What goes on, on stderr: a run takes minutes."""
    print(f"{what} …", file=sys.stderr, flush=True)
