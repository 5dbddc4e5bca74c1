"""Calls into code that is not ours, which may never return."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

_logger = logging.getLogger(__name__)


class Background:
    """Runs calls at once, each in a daemon thread of its own, for as long as somebody cares to wait.

    Args:
        calls: What to run; what one raises is logged at DEBUG and counts as a refusal.
    """

    def __init__(self, calls: Sequence[Callable[[], object]]) -> None:
        self._answers: list[object] = []
        self._threads: list[threading.Thread] = []
        self._expected = len(calls)
        for call in calls:
            thread = threading.Thread(target=self._run, args=(call,), name="llamatelemetry-call", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                _logger.debug("no thread could be started to call %r", call)
            else:
                self._threads.append(thread)

    def wait(self, deadline: float) -> bool:
        """Waits until ``time.monotonic()`` reaches ``deadline``; True if all returned and none returned False."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return len(self._answers) == self._expected and all(answer is not False for answer in self._answers)

    def _run(self, call: Callable[[], object]) -> None:
        try:
            self._answers.append(call())
        except Exception:
            # Other people's code may raise anything, and nobody is there to take it.
            _logger.debug("%r failed", call, exc_info=True)
            self._answers.append(False)
