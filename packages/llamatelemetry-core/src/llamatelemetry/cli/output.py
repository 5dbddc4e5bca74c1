"""How verbs speak: people's output through rich, programs' output as one JSON object.

Results go to standard output and everything else to standard error, so that a pipe carries
results alone. rich itself leaves colour out for NO_COLOR and for anything that is no terminal.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:  # rich takes longer to import than `--help` takes otherwise.
    from rich.console import Console

_Verb = TypeVar("_Verb", bound=Callable[..., Any])

PIPE_WIDTH: Final = 160
"""Columns where standard output is no terminal."""

MARKS: Final = {"ok": ("✓", "+", "green"), "warning": ("!", "!", "yellow"), "error": ("✗", "x", "red")}
"""Of each state: its mark, the mark where the terminal knows ASCII only, its colour."""


def json_option(verb: _Verb) -> _Verb:
    """Gives a verb ``--json``, as the argument ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")(verb)


def key_password_option(verb: _Verb) -> _Verb:
    """Gives a verb that signs ``--password``."""
    told = "Of the key; better given as LLAMATELEMETRY_KEY_PASSWORD."
    return click.option("--password", envvar="LLAMATELEMETRY_KEY_PASSWORD", help=told)(verb)


def examples(*lines: str) -> str:
    """Command lines as the epilog of a verb's ``--help``, one a line and not reflowed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def print_json(value: object) -> None:
    """Prints one JSON object on standard output, in ASCII so that any terminal can take it."""
    click.echo(json.dumps(value, indent=2))


def console() -> Console:
    """Standard output; nothing is highlighted or read as markup that was not meant to be.

    A pipe has no width. rich would take 80 columns and break commands that are there to be copied.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def progress_console() -> Console:
    """Standard error, for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


@contextmanager
def plugin_log_off() -> Iterator[None]:
    """Keeps plugin problems off the log while a verb that shows them anyway looks at them."""
    logger = logging.getLogger("llamatelemetry.plugins")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
