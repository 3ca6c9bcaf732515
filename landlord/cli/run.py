"""How every long-running command runs: settings, logs, uvloop, and signals that ask it to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

import click
import structlog

from landlord import logs
from landlord.settings import ConfigurationError, Settings, load

CONFIGURATION_EXIT = 2
"""Exit status when the configuration is wrong: starting again cannot help."""

COLLECT_AFTER = 20_000
"""Objects made and not yet gone that have the youngest of them collected."""

_log = structlog.get_logger(__name__)


def settings() -> Settings:
    """The settings of this process, with logs set up; one line on stderr and exit 2 when they are wrong."""
    try:
        loaded = load()
    except ConfigurationError as error:
        _refuse(error)
    logs.configure(level=loaded.log_level, form=loaded.log_format)
    return loaded


def run(main: Callable[[Settings, asyncio.Event], Awaitable[None]]) -> None:
    """Run ``main(settings, stop)`` until it returns. SIGTERM and SIGINT set ``stop``; a second one ends it at once.

    A :class:`ConfigurationError` out of it is one line on stderr and exit 2.
    """
    loaded = settings()
    _spare_collections()
    try:
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(signalled(lambda stop: main(loaded, stop)))
    except ConfigurationError as error:
        _refuse(error)


async def signalled(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Await ``main(stop)``; SIGTERM and SIGINT set ``stop``, a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(number: signal.Signals) -> None:
        _log.info("stopping", signal=number.name)
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    await main(stop)


def _spare_collections() -> None:
    """Keep what was imported out of every garbage collection, and collect less often.

    A request makes a thousand objects and no cycles; walking the modules' for it took a quarter of the time.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def _loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def _refuse(error: ConfigurationError) -> NoReturn:
    click.echo(f"landlord: {error}", err=True)
    sys.exit(CONFIGURATION_EXIT)
