"""SIGTERM as an exception, so that what is half-made is removed and spans end before the process does."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

_EXIT_CODE: Final = 128 + signal.SIGTERM


@contextmanager
def ends_softly() -> Iterator[None]:
    """Makes SIGTERM raise SystemExit meanwhile.

    Only in the main thread, where Python handles signals, and only where the program has no handler.
    """
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not mine:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _exit:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(_EXIT_CODE)
