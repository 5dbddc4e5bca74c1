"""``llamatelemetry plugins``: what is plugged in, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Final

import click
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from llamatelemetry.cli.output import MARKS, console, examples, json_option, plugin_log_off, print_json
from llamatelemetry.cli.verbs import built_in_verbs
from llamatelemetry.plugins import PluginReport, PluginState, Registration, load_plugins
from llamatelemetry.plugins.offers import OFFERS

_MARK: Final = {
    PluginState.LOADED: "ok",
    PluginState.DISABLED: "warning",
    PluginState.INCOMPATIBLE: "error",
    PluginState.MISSING_DEPENDENCY: "error",
    PluginState.FAILED: "error",
}


@click.command(
    epilog=examples(
        "llamatelemetry plugins",
        "llamatelemetry plugins --json",
        "LLAMATELEMETRY_DISABLED_PLUGINS=llamacpp llamatelemetry plugins",
        "LLAMATELEMETRY_PLUGINS=llamacpp llamatelemetry plugins",
    )
)
@json_option
def plugins(*, as_json: bool) -> None:
    """List the installed plugins and what became of them.

    A plugin that is broken, disabled or does not fit is listed with the reason; it stops nothing
    else. Exit code 0 even then: `llamatelemetry doctor` is the one that judges.
    """
    with plugin_log_off():
        installed = load_plugins()
        verbs = built_in_verbs()
        installed.add_commands(verbs)
        backends, commands, stages = list(installed.backends), list(verbs), list(installed.stages)
        reports = installed.reports
    if as_json:
        print_json(
            {
                "plugins": [asdict(report) for report in reports],
                "backends": [_registered(item) for item in backends],
                "commands": [_registered(item) for item in commands],
                "stages": [_registered(item) for item in stages],
            }
        )
        return
    out = console()
    for report in reports:
        _show(out, report)
    if not reports:
        out.print(f"No plugins are installed. For llama.cpp: {OFFERS['backend', 'llamacpp'].command}")
    out.print()
    _show_names(out, "backends", backends)
    _show_names(out, "commands", commands)
    if stages:
        _show_names(out, "stages", stages)


def _registered(item: Registration) -> dict[str, str]:
    return {"name": item.name, "target": item.target, "plugin": item.plugin}


def _show(out: Console, report: PluginReport) -> None:
    mark, plain, colour = MARKS[_MARK[report.state]]
    head = Text.assemble(
        (plain if out.options.ascii_only else mark, colour),
        " ",
        (report.name, "bold"),
        f"  {report.distribution} {report.version}  ",
        (report.state.value, colour),
    )
    out.print(head)
    if report.hooks:
        out.print(Padding(Text(", ".join(report.hooks), "dim"), (0, 0, 0, 4), expand=False))
    for problem in (report.error or "").splitlines():
        out.print(Padding(Text(problem), (0, 0, 0, 4), expand=False))
    if report.fix:
        out.print(Padding(Text.assemble(("fix: ", "dim"), report.fix), (0, 0, 0, 4), expand=False))


def _show_names(out: Console, title: str, items: Iterable[Registration]) -> None:
    names = [item.name + (f" ({item.plugin})" if item.plugin else "") for item in items]
    out.print(Text.assemble((f"{title}  ", "dim"), ", ".join(sorted(names))))
