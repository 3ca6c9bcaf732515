"""Real components for the tests: see the modules of ``fixtures/``. Nothing is started until a test asks for it."""

from __future__ import annotations

import sys
from pathlib import Path

import structlog

# The fixtures are plain modules; --import-mode=importlib leaves sys.path alone.
sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = [
    "fixtures.components",
    "fixtures.postgres",
    "fixtures.kubernetes",
    "fixtures.docker",
    "fixtures.restate",
    "fixtures.engines",
]

# By default a traceback is drawn with colours and the source around it, which takes seconds.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)
