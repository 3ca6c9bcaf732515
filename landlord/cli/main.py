"""``landlord COMMAND``: commands of every package that registers some, imported only when they are asked for."""

from __future__ import annotations

import gc
from importlib.metadata import entry_points

import click

GROUP = "landlord.commands"


class LazyGroup(click.Group):
    """Looks commands up in the entry points of :data:`GROUP`; what cannot be imported fails only its own command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(entry_points(group=GROUP).names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        points = entry_points(group=GROUP, name=cmd_name)
        if not points:
            return None
        point = next(iter(points))
        gc.disable()  # what is imported stays: looking through it again and again takes a tenth of the start
        try:
            command = point.load()
        except (ImportError, AttributeError) as error:
            return _Broken(cmd_name, f"{point.value} cannot be loaded: {error}")
        finally:
            gc.enable()
        if not isinstance(command, click.Command):
            return _Broken(cmd_name, f"{point.value} is not a click command")
        return command


class _Broken(click.Command):
    """Stands for a command whose package is damaged or lacks an optional dependency."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            name,
            short_help=f"(unavailable: {reason})",
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )
        self._reason = reason

    def invoke(self, ctx: click.Context) -> None:
        raise click.ClickException(self._reason)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="landlord", prog_name="landlord")
def main() -> None:
    """Provision the tenants of a SaaS product and keep them alive.

    Configured by LANDLORD_* variables and, if LANDLORD_CONFIG names one, a YAML file; `landlord config` shows all
    settings. To begin with: `landlord dev`.
    """
