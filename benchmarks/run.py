"""``make bench``: measures the real processes on this machine and prints one table. Nothing is asserted.

Writes only into a temporary folder, and leaves no process.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks import cluster, flight, ready, rest
from benchmarks.load import NoWrk
from benchmarks.parts import Machine, say
from benchmarks.table import Row, markdown
from landlord.dev import postgres
from landlord.dev.processes import LauncherError

BENCHMARKS: dict[str, Callable[[Machine], Awaitable[list[Row]]]] = {
    "requests": rest.requests,
    "busy": rest.busy,
    "pages": rest.pages,
    "single": ready.single,
    "thousand": ready.thousand,
    "flight": flight.flight,
    "cluster": cluster.thousand,
    "idle": cluster.idle,
}


@click.command
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--seconds", default=4.0, show_default=True, help="How long each load lasts.")
@click.option("--rounds", default=3, show_default=True, help="How often a load and its limit are measured in turn.")
def main(names: tuple[str, ...], seconds: float, rounds: int) -> None:
    """Measure all, or those named."""
    # Below /tmp: sockets need short paths, and the user who runs Postgres must reach its data.
    folder = Path(tempfile.mkdtemp(prefix="landlord-benchmarks-", dir="/tmp"))
    folder.chmod(0o711)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    began = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}, load average before: {os.getloadavg()[0]:.1f}"
    try:
        rows = asyncio.run(_measure(names or tuple(BENCHMARKS), folder=folder, seconds=seconds, rounds=rounds))
    except (LauncherError, NoWrk) as error:
        raise SystemExit(f"benchmarks: {error}") from error
    except asyncio.CancelledError:
        raise SystemExit("benchmarks: stopped") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{began}\n\n{markdown(rows)}")


async def _measure(names: Sequence[str], *, folder: Path, seconds: float, rounds: int) -> list[Row]:
    current = asyncio.current_task()
    assert current is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    rows: list[Row] = []
    async with postgres.running(state=folder) as server:
        machine = Machine(server=server, folder=folder, seconds=seconds, rounds=rounds)
        for name in names:
            say(name)
            rows += await BENCHMARKS[name](machine)
    return rows


if __name__ == "__main__":
    main()
