"""Ties a child process to its parent, so that no model server outlives the application.

A ``llama-server`` binary knows nothing of its parent. It is started as
``python child.py PARENT_PID BINARY ARGUMENTS...``: this module asks the kernel for the tie and then
becomes the binary, which keeps it. It runs as a plain file, so it imports the standard library alone.

What stands for the binary may be a script that starts it. The tie is the script's alone, so a second
process stays beside a script and ends, once the script is gone, whatever that leaves behind.
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
_WATCH_S: Final = 10.0
"""How late the end of a script is noticed where the kernel does not tell of it."""


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when the thread that started it ends.

    The tie is to the parent's *thread*, so the parent must start us from one that lives as long as
    we should. SIGKILL, because nothing here has state to save and nothing may delay it.

    Args:
        parent_pid: Who should be our parent; if it died before the tie was made, this process exits.
    """
    _ask_for_signal_at_parents_end(signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def _ask_for_signal_at_parents_end(number: signal.Signals) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def reset_signals() -> None:
    """Undoes what a parent may have passed on: an ignored SIGTERM would make a polite stop impossible."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def watch_over(program: str) -> None:
    """Starts what ends the rest of this process group when this process, about to become a script, is gone.

    Only for a script: what a binary is can be seen, and one process is then enough. And only where
    the group is ours, so that it is never somebody else's that ends.
    """
    if not _is_script(program) or os.getpgid(0) != os.getpid():
        return
    script = os.getpid()
    if os.fork() > 0:
        return
    try:
        # A polite stop is for the others: this process goes last, and holds no output open meanwhile.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        for stream in (0, 1, 2):
            os.close(stream)
        _ask_for_signal_at_parents_end(signal.SIGUSR1)
        while os.getppid() == script:
            signal.sigtimedwait({signal.SIGUSR1}, _WATCH_S)
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(0)


def _is_script(program: str) -> bool:
    try:
        with open(program, "rb", buffering=0) as file:  # noqa: PTH123 - the fewest imports, for a quick start
            return file.read(2) == b"#!"
    except OSError:
        return False


def main(arguments: list[str]) -> int:
    """Becomes the program named by ``arguments``: the parent's process id, then a command line."""
    die_with_parent(int(arguments[0]))
    reset_signals()
    command = arguments[1:]
    watch_over(command[0])
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be executed: {error.strerror}\n")
        return EXEC_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
