"""The registry loads what is configured, by entry point, third parties' too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from landlord.compute.provider import ComputeUnavailable
from landlord.compute.registry import ComputeRegistry, UnknownComputeProvider
from landlord.settings import ConfigurationError, Settings

THIRD_PARTY = """
from landlord.compute.provider import ComputeUnavailable
from landlord.compute.providers.mock import MockProvider

class Other(MockProvider):
    name = "other"
    open = False
    async def start(self): self.open = True
    async def close(self): self.open = False
    async def ready(self): raise ComputeUnavailable("other is away")

class Nothing: ...

class Older(MockProvider):
    def __init__(self): ...

class Bitter(MockProvider):
    def __init__(self, *, settings): raise ValueError("password=hunter2")
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution as pip would leave it."""
    (tmp_path / "landlord_third_party.py").write_text(THIRD_PARTY)
    metadata = tmp_path / "landlord_third_party-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: landlord-third-party\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[landlord.compute_providers]\n"
        "other = landlord_third_party:Other\n"
        "nothing = landlord_third_party:Nothing\n"
        "broken = landlord_third_party_absent:Gone\n"
        "older = landlord_third_party:Older\n"
        "bitter = landlord_third_party:Bitter\n"
        "raising = landlord_third_party_raising:Any\n"
        "unreadable = landlord_third_party_unreadable:Any\n"
    )
    (tmp_path / "landlord_third_party_raising.py").write_text("raise RuntimeError('password=hunter2')\n")
    (tmp_path / "landlord_third_party_unreadable.py").write_text("def :\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "landlord_third_party", raising=False)


@pytest.mark.usefixtures("third_party")
async def test_providers_of_third_parties_are_found() -> None:
    registry = ComputeRegistry(settings=Settings(compute_providers=("other",)))
    assert registry.names == ("other",)
    assert registry.default == "other"
    provider = registry.get("other")
    assert provider.name == "other"
    await registry.start()
    assert provider.open  # type: ignore[attr-defined]
    with pytest.raises(ComputeUnavailable):
        await provider.ready()
    await registry.close()
    assert not provider.open  # type: ignore[attr-defined]


@pytest.mark.usefixtures("third_party")
def test_an_unknown_name_says_what_is_allowed() -> None:
    registry = ComputeRegistry(settings=Settings(compute_providers=("other",)))
    with pytest.raises(UnknownComputeProvider, match=r"'ecs'; this installation has: other$"):
        registry.get("ecs")


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "no compute provider 'absent'; installed: .*other"),
        ("nothing", "is not a ComputeProvider"),
        ("broken", "compute provider 'broken' .* cannot be loaded: No module named"),
        ("older", "compute provider 'older' .* cannot be loaded: .* unexpected keyword argument 'settings'"),
        ("bitter", "compute provider 'bitter' .* cannot be loaded: ValueError"),
        ("raising", "compute provider 'raising' .* cannot be loaded: RuntimeError"),
        ("unreadable", "compute provider 'unreadable' .* cannot be loaded: invalid syntax"),
    ],
)
def test_a_provider_that_cannot_be_had_names_the_key(name: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^LANDLORD_COMPUTE_PROVIDERS: .*{reason}") as caught:
        ComputeRegistry(settings=Settings(compute_providers=(name,)))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_our_own_are_installed() -> None:
    registry = ComputeRegistry(settings=Settings())
    assert registry.names == ("docker", "mock")
    await registry.start()
    await registry.get("mock").ready()
    await registry.close()
