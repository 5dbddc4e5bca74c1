"""The ``llamatelemetry`` command.

This module is what the console script imports: it stays free of click and rich, so that Ctrl-C
during start-up is already handled quietly.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Final, NoReturn

INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as shells count it."""

TERMINATED: Final = 128 + signal.SIGTERM
"""Exit code after SIGTERM, as shells count it."""


def main() -> NoReturn:
    """Runs the command line given in ``sys.argv`` and exits.

    SIGTERM unwinds the stack like Ctrl-C does, so that servers are stopped and telemetry is flushed.
    """
    try:
        signal.signal(signal.SIGTERM, _exit_on_sigterm)
        from llamatelemetry.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _exit_on_sigterm(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(TERMINATED)
