"""What a plugin's code may throw at us, and how it is put in one line."""

from __future__ import annotations

from typing import Final

ANY_FAULT: Final = (Exception, SystemExit)
"""Caught wherever a plugin's code runs: it may raise anything, and must end neither us nor its siblings.

Ctrl-C is left out: it is the user's word, not the plugin's.
"""

_LONGEST: Final = 300


def describe(error: BaseException) -> str:
    """An exception in one line: its class and the start of its message."""
    message = " ".join(str(error).split())
    if len(message) > _LONGEST:
        message = message[: _LONGEST - 3] + "..."
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
