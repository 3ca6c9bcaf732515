"""The provider in ``docs/writing-a-compute-provider.md`` is found by its entry point and runs a tenant's whole life."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.components import ROOT

from landlord.settings import Settings
from landlord.workflow.payload import TenantPayload
from landlord.workflow.provider import RunFailed
from landlord.workflow.worker import TenantWorker

PAGE = (ROOT / "docs" / "writing-a-compute-provider.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(ENTRY_POINT,) = re.findall(r'"(landlord\.compute_providers)"\]\n(folder) = "(my_package):(FolderProvider)"', PAGE)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TenantWorker:
    """Of an installation that has the page's package."""
    group, name, module, attribute = ENTRY_POINT
    (tmp_path / f"{module}.py").write_text(CODE)
    info = tmp_path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{attribute}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "tenants").mkdir()
    monkeypatch.setenv("FOLDER_PROVIDER_ROOT", str(tmp_path / "tenants"))
    settings = Settings(compute_providers=(name,), workflow_provider="mock", compute_health_timeout=1)
    return TenantWorker(settings=settings)


async def _step(_: str, action: Callable[[], Awaitable[Any]], /) -> Any:
    return await action()


async def test_a_life(worker: TenantWorker, tmp_path: Path) -> None:
    async def run(action: str, *, generation: int, **config: Any) -> dict[str, Any]:
        payload = TenantPayload(
            installation="default",
            execution_id=f"tenant-acme-{action}",
            tenant_id="acme",
            incarnation="6f1c",
            generation=generation,
            action=action,
            attempt=1,
            compute_provider="folder",
            desired_config=config,
            observed_config=None,
        )
        return await worker.execute(payload.dumps(), _step)

    def files() -> list[str]:
        return sorted(path.name for path in (tmp_path / "tenants").iterdir())

    with pytest.raises(RunFailed, match="/copies: must be at least 1; /text: must not hold a tab"):
        await run("plan", generation=1, text="a\tb", copies=0)
    await run("plan", generation=1, text="one")
    made = await run("provision", generation=1, text="one")
    assert (made["health"], made["config"]) == ("healthy", {"text": "one"})
    await run("update", generation=2, text="two")
    assert files() == ["default.acme.2"]
    with pytest.raises(RunFailed, match="generation 2, newer than 1"):
        await run("provision", generation=1, text="one")
    with pytest.raises(RunFailed, match="generation 2, newer than 1"):
        await run("delete", generation=1)
    await run("delete", generation=2)
    await run("delete", generation=2)
    assert files() == []
