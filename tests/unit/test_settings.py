"""What is no setting, or no value of one, is told in one line that names it and where it came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from landlord.settings import PREFIX, ConfigurationError, Settings, load

TEN_YEARS = 10 * 365 * 86400
DURATIONS = [name for name, field in Settings.model_fields.items() if field.annotation is float]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ``LANDLORD_CONFIG`` names."""
    path = tmp_path / "landlord.yaml"
    monkeypatch.setenv("LANDLORD_CONFIG", str(path))
    return path


def refusal() -> str:
    with pytest.raises(ConfigurationError) as refused:
        load()
    line = str(refused.value)
    assert len(line.splitlines()) == 1
    return line


@pytest.mark.parametrize("value", ["1e12", "inf", "-inf", "nan", "-1", "0"])
@pytest.mark.parametrize("name", DURATIONS)
def test_a_duration_is_positive_and_ends(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    variable = f"{PREFIX}{name.upper()}"
    monkeypatch.setenv(variable, value)
    assert refusal().startswith(f"{variable} (environment): ")


def test_a_duration_may_be_as_long_as_ten_years_unless_its_setting_is_narrower() -> None:
    assert Settings(execution_deadline=TEN_YEARS).execution_deadline == TEN_YEARS
    with pytest.raises(ValueError, match="less than or equal to 300"):
        Settings(workflow_trigger_timeout=301)


@pytest.mark.parametrize(
    "content",
    [
        b"retry_attempts: \xff",
        b"retry_attempts: 2024-13-45",
        b"retry_attempts: !!timestamp soon",
        b"retry_attempts: !!bool perhaps",
        b"retry_attempts: " + b"9" * 5000,
        b"[" * 3000,
        b"retry_attempts: [",
        b"- retry_attempts",
    ],
)
def test_a_file_that_is_no_mapping_in_yaml(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    line = refusal()
    assert line.startswith("LANDLORD_CONFIG (environment): ")
    assert str(file) in line


@pytest.mark.parametrize("key", ["colour", "1", "null", "2024-01-01", "_env_prefix", "LANDLORD_API_PORT", '"a\\nb"'])
def test_a_key_of_the_file_that_is_no_setting(file: Path, key: str) -> None:
    file.write_text(f"{key}: 1\n")
    assert f"({file}): no such setting" in refusal()


@pytest.mark.parametrize("name", ["LANDLORD_API_PROT", "landlord_api_prot", "landlord_api_port", "Landlord_API_PORT"])
def test_a_variable_that_is_no_setting_in_whatever_case(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "77")
    assert refusal().startswith(f"{name} (environment): no such setting")


def test_what_was_meant_is_named(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """`landlord config`, which shows all of them, is refused for the same reason."""
    file.write_text("retry_atempts: 3")
    assert refusal() == f"'retry_atempts' ({file}): no such setting; did you mean retry_attempts?"
    file.write_text("")
    monkeypatch.setenv("LANDLORD_LOG_LEVL", "info")
    assert refusal().endswith(": no such setting; did you mean LANDLORD_LOG_LEVEL?")
    monkeypatch.delenv("LANDLORD_LOG_LEVL")
    monkeypatch.setenv("landlord_log_level", "info")
    assert refusal().endswith(": no such setting; did you mean LANDLORD_LOG_LEVEL?")
    monkeypatch.delenv("landlord_log_level")
    monkeypatch.setenv("LANDLORD_XYZ", "info")
    assert refusal().endswith(": no such setting; without it `landlord config` shows all")


def test_the_default_provider_is_one_of_them(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    file.write_text("compute_default_provider: nobody\n")
    assert refusal() == (f"LANDLORD_COMPUTE_DEFAULT_PROVIDER ({file}): must be one of compute_providers (docker, mock)")
    monkeypatch.setenv("LANDLORD_COMPUTE_DEFAULT_PROVIDER", "nobody-else")
    assert refusal().startswith("LANDLORD_COMPUTE_DEFAULT_PROVIDER (environment): must be one of ")
    monkeypatch.setenv("LANDLORD_COMPUTE_PROVIDERS", " , ")
    assert refusal().startswith("LANDLORD_COMPUTE_PROVIDERS (environment): ")


@pytest.mark.parametrize("token", ["hunter2\n", "hunter2\r\n", "hunter 2", "h\xfcnter2"])
@pytest.mark.parametrize("name", ["restate_token", "callback_token"])
def test_a_token_that_no_header_takes(monkeypatch: pytest.MonkeyPatch, file: Path, name: str, token: str) -> None:
    """As Kubernetes secrets often have it, which were made of a line: every call with it would fail."""
    variable = f"{PREFIX}{name.upper()}"
    file.write_text(f"{name}: {json.dumps(token)}")
    told = [refusal()]
    monkeypatch.setenv(variable, token)
    told.append(refusal())
    assert [line.split(")")[0] for line in told] == [f"{variable} ({file}", f"{variable} (environment"]
    assert all("nter" not in line for line in told)
