"""Ties a child process to its parent, so that no model server outlives the application.

A ``llama-server`` binary knows nothing of its parent. It is started as
``python child.py PARENT_PID BINARY ARGUMENTS...``: this module asks the kernel for the tie and then
becomes the binary, which keeps it. It runs as a plain file, so it imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

EXEC_FAILED: Final = 126
"""Exit status for "found but cannot be executed", as shells use it."""

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when the thread that started it ends.

    The tie is to the parent's *thread*, so the parent must start us from one that lives as long as
    we should. SIGKILL, because nothing here has state to save and nothing may delay it.

    Args:
        parent_pid: Who should be our parent; if it died before the tie was made, this process exits.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(0)


def reset_signals() -> None:
    """Undoes what a parent may have passed on: an ignored SIGTERM would make a polite stop impossible."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main(arguments: list[str]) -> int:
    """Becomes the program named by ``arguments``: the parent's process id, then a command line."""
    die_with_parent(int(arguments[0]))
    reset_signals()
    command = arguments[1:]
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be executed: {error.strerror}\n")
        return EXEC_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
