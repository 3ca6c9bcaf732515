"""Real components for the tests: see the modules of ``fixtures/``. Nothing is started until a test asks for it."""

from __future__ import annotations

import sys
from pathlib import Path

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
