"""Puts the command line together, and turns how a verb ended into one line and an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from llamatelemetry.cli import INTERRUPTED
from llamatelemetry.cli.group import VerbGroup
from llamatelemetry.cli.output import examples, print_json
from llamatelemetry.errors import LlamatelemetryError

PROGRAM: Final = "llamatelemetry"
FAILED: Final = 1

_EPILOG: Final = f"""{examples("llamatelemetry doctor", "llamatelemetry replay FILE --to URL")}

Every verb takes --json and then prints one JSON object on standard output, which is
{{"error": {{"type": ..., "message": ...}}}} if it failed.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM.
"""


def command_line() -> VerbGroup:
    """The ``llamatelemetry`` command with its verbs, none of them imported."""
    group = VerbGroup(
        name=PROGRAM,
        help="OpenTelemetry and inference for local LLMs.",
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    return click.version_option(package_name="llamatelemetry-core", prog_name=PROGRAM)(group)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line.

    Args:
        arguments: What follows the program's name.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted. A verb may return its own.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As stderr has it: a name that a file or a record has may hold what no terminal can be sent.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments, as_json="--json" in arguments)
        sys.stdout.flush()  # A closed pipe is noticed here, and not while the interpreter exits.
    except BrokenPipeError:
        # The reader left, as `head` does. What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _run(arguments: Sequence[str], *, as_json: bool) -> int:
    try:
        outcome = command_line().main(args=list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except LlamatelemetryError as error:
        _say(error.error_type, str(error), as_json=as_json)
        return FAILED
    except click.ClickException as error:
        if as_json:
            _say(type(error).__name__, error.format_message(), as_json=as_json)
        else:
            error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    return outcome if isinstance(outcome, int) else 0


def _say(kind: str, message: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": {"type": kind, "message": message}})
    else:
        click.echo(f"Error: {message}", err=True)
