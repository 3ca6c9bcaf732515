"""``landlord dev``: everything in one command, for a developer's machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from landlord import logs
from landlord.cli.run import signalled
from landlord.database.engine import DatabaseUnavailable
from landlord.database.migrate import DatabaseUnfit
from landlord.dev import system
from landlord.dev.processes import LauncherError
from landlord.dev.system import Options
from landlord.settings import ConfigurationError


@click.command
@click.option(
    "--port",
    default=8080,
    show_default=True,
    envvar="LANDLORD_API_PORT",
    show_envvar=True,
    type=click.IntRange(1, 65535),
    help="Port of the REST API.",
)
@click.option(
    "--state-dir",
    default=Path(".landlord"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything is kept between runs.",
)
@click.option(
    "--workflow",
    default="local",
    show_default=True,
    envvar="LANDLORD_WORKFLOW_PROVIDER",
    show_envvar=True,
    metavar="local|restate|NAME",
    help="Workflow engine, or another provider that is installed.",
)
@click.option(
    "--compute",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "docker", "mock"]),
    help="Default compute provider; auto takes docker when an engine answers.",
)
@click.option(
    "--kubernetes",
    default="auto",
    show_default=True,
    metavar="auto|embedded|off|NAME",
    help="Cluster: a context of the kubeconfig, a private control plane, or none. auto takes the current context only"
    " when it is plainly a local one, else a private one.",
)
@click.option(
    "--reset", is_flag=True, help="First remove the tenants' containers and resources and the state; then start."
)
def dev(*, port: int, state_dir: Path, workflow: str, compute: str, kubernetes: str, reset: bool) -> None:
    """Run all of Landlord on this machine, to try it out.

    Postgres, API, worker, operator, and a Kubernetes API server: what is not there is started. LANDLORD_* settings are
    heeded. Ctrl-C ends it. What it has made is kept in the state folder and goes on next time.
    """
    options = Options(
        port=port,
        state=state_dir.absolute(),
        workflow=workflow,
        compute=compute,
        kubernetes=kubernetes,
        reset=reset,
    )
    logs.configure(level="warning", form="console")
    try:
        asyncio.run(signalled(lambda stop: _main(options, stop)))
    except (LauncherError, ConfigurationError, DatabaseUnavailable, DatabaseUnfit) as error:
        raise click.ClickException(str(error)) from error


async def _main(options: Options, stop: asyncio.Event) -> None:
    """Until somebody asks it to stop, also while it is still starting."""
    serving = asyncio.ensure_future(_serve(options))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        serving.cancel()
    try:
        await serving
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    _say("stopped")


async def _serve(options: Options) -> None:
    async with system.running(options, say=_say) as started:
        kubectl = await started.complete()
        _say(f"ready: {started.url}")
        for line in _next_steps(started.url, kubectl=kubectl):
            _say(line)
        await asyncio.Event().wait()


def _next_steps(url: str, *, kubectl: str | None) -> list[str]:
    """To be copied: they must not meet another cluster, that of the reader's current context, say."""
    return [
        "try:",
        f"  curl -X POST {url}/api/tenants -H 'Content-Type: application/json' \\",
        """       -d '{"id": "demo", "compute_provider": "mock", "compute_config": {}}'""",
        f"  curl {url}/api/tenants/demo",
        *([f"  {kubectl} get tenant demo --watch", f"  {kubectl} delete tenant demo"] if kubectl else []),
        f"  open {url}/api/docs",
    ]


def _say(line: str) -> None:
    click.echo(line)  # which flushes, into a file too
