"""A click group that imports a verb when it is used, and plugins when they are needed.

``--help`` lists every verb from its registered summary and imports none; a built-in verb runs
without looking for plugins at all.
"""

from __future__ import annotations

import difflib
from typing import Any, Final

import click

from llamatelemetry.cli.output import plugin_log_off
from llamatelemetry.cli.verbs import built_in_verbs
from llamatelemetry.errors import MissingDependencyError, PluginError
from llamatelemetry.plugins import Plugins, PluginState, load_plugins
from llamatelemetry.plugins.offers import OFFERS

_BROKEN: Final = {PluginState.INCOMPATIBLE, PluginState.MISSING_DEPENDENCY, PluginState.FAILED}


class VerbGroup(click.Group):
    """The verbs of core and of the installed plugins, by name."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._verbs = built_in_verbs()
        self._plugins: Plugins | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb's name, sorted."""
        self._add_plugins()
        return list(self._verbs.names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb, imported; None if there is none of that name.

        Raises:
            PluginError: There is, and it cannot be imported.
        """
        if cmd_name not in self._verbs:
            self._add_plugins()
        if cmd_name not in self._verbs:
            return None
        command = self._verbs.resolve(cmd_name)
        if not isinstance(command, click.Command):
            target = self._verbs.get(cmd_name).target
            raise PluginError(f"command {cmd_name!r} cannot be used: {target} is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the arguments name; for an unknown one, says what would bring it."""
        name = args[0]
        if name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        offer = OFFERS.get(("command", name))
        if offer is None:
            close = difflib.get_close_matches(name, self._verbs.names, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"There is no command {name!r}.{meant}")
        broken = self._add_plugins().trouble_with(offer.distribution)
        if broken:
            raise PluginError(f"llamatelemetry {name} is not available. {broken}")
        raise MissingDependencyError(f"llamatelemetry {name}", offer.distribution, offer.command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the verbs and their summaries."""
        plugins = self._add_plugins()
        rows = [(name, self._verbs.get(name).summary) for name in self._verbs.names]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        broken = [report.name for report in plugins.reports if report.state in _BROKEN]
        if broken:
            formatter.write_paragraph()
            formatter.write_text(f"Not in full use: {', '.join(broken)}. See llamatelemetry plugins.")

    def _add_plugins(self) -> Plugins:
        if self._plugins is None:
            with plugin_log_off():
                self._plugins = load_plugins()
                self._plugins.add_commands(self._verbs)
        return self._plugins
