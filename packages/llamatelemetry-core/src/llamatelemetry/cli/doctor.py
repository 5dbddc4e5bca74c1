"""``llamatelemetry doctor``: what is installed, what would be used, what is wrong and how to fix it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llamatelemetry.cli import checks, store_checks
from llamatelemetry.cli.output import (
    MARKS,
    console,
    examples,
    json_option,
    plugin_log_off,
    print_json,
    progress_console,
)
from llamatelemetry.cli.verbs import built_in_verbs
from llamatelemetry.deployment.checks import checks as deployment_checks
from llamatelemetry.gpu.checks import checks as gpu_checks
from llamatelemetry.plugins import Check, CheckState, load_plugins

Sections = Mapping[str, list[Check]]


@click.command(
    epilog=examples(
        "llamatelemetry doctor",
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 llamatelemetry doctor",
        "llamatelemetry doctor --json",
    )
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Say what is installed, what would be used and what is wrong.

    Reads the environment as init() would, tries the endpoint, reads each GPU once, asks every plugin, and
    gives a fix for each thing that does not work. Changes nothing. Exit code 1 if there is an error.
    """
    if as_json:
        sections = examine(os.environ)
    else:
        with progress_console().status("Looking around"):
            sections = examine(os.environ)
    found = [check for section in sections.values() for check in section]
    errors = sum(check.state is CheckState.ERROR for check in found)
    warnings = sum(check.state is CheckState.WARNING for check in found)
    if as_json:
        rows = [{"section": title, **asdict(check)} for title, section in sections.items() for check in section]
        print_json({"ok": not errors, "errors": errors, "warnings": warnings, "checks": rows})
    else:
        _show(console(), sections)
        click.echo(_verdict(errors, warnings))
    ctx.exit(1 if errors else 0)


def examine(environ: Mapping[str, str]) -> Sections:
    """Runs every check there is.

    Args:
        environ: The environment to judge.

    Returns:
        Titles of sections to their checks, in the order to show them.
    """
    with plugin_log_off():
        settings, wrong = checks.check_environment(environ)
        plugins = load_plugins(settings)
        plugins.add_commands(built_in_verbs())
        settings = plugins.configure(settings)
        plugins.detect_resource(settings)
        contributed = plugins.checks()
        sections = {
            "Installed": checks.check_installed(),
            "Settings": [*wrong, *checks.check_settings(settings)],
            "GPU": gpu_checks(environ),
            "Plugins": checks.check_plugins(plugins.reports, settings),
            "Artifacts": store_checks.checks(),
            "Deployments": deployment_checks(),
            **contributed,
        }
    return {title: section for title, section in sections.items() if section}


def _show(out: Console, sections: Sections) -> None:
    for title, section in sections.items():
        out.print(Text(title, "bold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        table.add_column(overflow="fold")
        for check in section:
            mark, plain, colour = MARKS[check.state]
            detail = Text(check.detail, "" if check.state is CheckState.OK else colour)
            if check.fix:
                detail.append("\nfix: ", "dim").append(check.fix, "default")
            table.add_row(Text("  " + (plain if out.options.ascii_only else mark), colour), check.name, detail)
        out.print(table)
        out.print()


def _verdict(errors: int, warnings: int) -> str:
    if not errors and not warnings:
        return "Everything is fine."
    return f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
