"""``landlord config``: what is in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from landlord.cli.run import settings


@click.command
def config() -> None:
    """Print the effective settings as YAML, secrets masked."""
    effective = settings()
    values = {name: _shown(getattr(effective, name)) for name in type(effective).model_fields}
    click.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)


def _shown(value: Any) -> Any:
    match value:
        case SecretStr():
            return _masked(value.get_secret_value())
        case Path():
            return str(value)
        case tuple():
            return [_shown(item) for item in value]
        case _:
            return value


def _masked(secret: str) -> str:
    """A URL without its password and query (libpq takes passwords there, too); stars for what is no URL of one host."""
    try:
        url = make_url(secret).set(query={})
    except (ArgumentError, ValueError):  # the latter for the ports of several hosts, which libpq takes
        return "***"
    if "@" in (url.host or ""):  # it was the password's, and the rest of it would be shown
        return "***"
    return url.render_as_string(hide_password=True)
