"""Processes that are nobody's child here, told from others that have their number later."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRef:
    """A process, whether it still runs or not.

    Attributes:
        pid: Its number.
        started: The boot and the clock tick that it began at: another process of that number began at another.
    """

    pid: int
    started: str


def process_ref(pid: int) -> ProcessRef | None:
    """The process that has a number now; None where none has, or it ended and only waits to be reaped."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name before it is in parentheses and may hold anything, spaces and parentheses too.
    fields = text.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]
    return None if state in {"Z", "X"} else ProcessRef(pid=pid, started=f"{_boot()}:{ticks}")


def is_running(process: ProcessRef | None) -> bool:
    """Whether it still runs."""
    return process is not None and process_ref(process.pid) == process


def end(process: ProcessRef, grace_s: float) -> bool:
    """Ends it: SIGTERM, then SIGKILL after ``grace_s`` seconds. Returns whether it is gone.

    A process that may not be signalled, or that the kernel cannot end, is still there afterwards.
    """
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not is_running(process):
            return True
        with suppress(OSError):
            os.kill(process.pid, number)
        if wait_gone(process, wait_s):
            return True
    return False


def wait_gone(process: ProcessRef, timeout_s: float) -> bool:
    """Waits for its end; returns whether it came."""
    limit = time.monotonic() + timeout_s
    while is_running(process):
        if time.monotonic() > limit:
            return False
        time.sleep(_POLL_S)
    return True


def private_bytes(process: ProcessRef | None) -> int:
    """Memory that it alone holds and that no file backs; 0 where that cannot be known."""
    if process is None or not is_running(process):
        return 0
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROC / str(process.pid) / "status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


@cache
def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""
