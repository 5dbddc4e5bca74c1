"""The way from the application's threads to the recorder's: bounded, counted, and cheap to enter."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from opentelemetry.trace import Span

from llamatelemetry.forks import after_fork
from llamatelemetry.inference.record import FinishedRecord

_log = logging.getLogger(__name__)


class Handover:
    """A bounded queue into one thread, which is started when first needed and again after a fork.

    Args:
        process: Called with each record in the recorder's thread.
        report_lost: Called there with how many records were given up since it was last called.
        limit: Records that may wait; past it the oldest is given up.
    """

    def __init__(
        self,
        process: Callable[[Span, FinishedRecord], None],
        report_lost: Callable[[int], None],
        limit: int,
    ) -> None:
        self._process = process
        self._report_lost = report_lost
        self._limit = limit
        self._waiting: deque[tuple[Span, FinishedRecord]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._accepted = 0
        self._done = 0
        self._lost = 0
        self._reported = 0
        self._stopped = False
        after_fork(self._after_fork)

    def put(self, span: Span, record: FinishedRecord) -> None:
        """Takes a record; never blocks on the recorder and never raises."""
        with self._changed:
            if self._stopped:
                self._lost += 1
                return
            if len(self._waiting) >= self._limit:
                self._waiting.popleft()
                self._done += 1
                self._lost += 1
            self._waiting.append((span, record))
            self._accepted += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="llamatelemetry-recorder", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Waits until what was put so far is processed; False if time ran out."""
        with self._changed:
            target = self._accepted
            return self._changed.wait_for(lambda: self._done >= target, timeout_s)

    def stop(self, timeout_s: float) -> int:
        """Processes what waits, within ``timeout_s``, and ends; returns how many records were lost."""
        deadline = time.monotonic() + timeout_s
        self.flush(timeout_s)
        with self._changed:
            self._stopped = True
            self._lost += len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._lost

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                self._process(*item)
                self._tell_lost()
            except Exception:  # noqa: BLE001 - one record that cannot be told must not silence those after it
                _log.exception("could not record request %s", item[1].opening.request.request_id)
            with self._changed:
                self._done += 1
                self._changed.notify_all()

    def _next(self) -> tuple[Span, FinishedRecord] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            return self._waiting.popleft() if self._waiting else None

    def _tell_lost(self) -> None:
        if (lost := self._lost) > self._reported:
            self._report_lost(lost - self._reported)
            self._reported = lost

    def _after_fork(self) -> None:
        # The parent's thread records what was waiting; the child begins with nothing.
        self._waiting.clear()
        self._changed = threading.Condition(threading.Lock())
        self._thread = None
        self._accepted = self._done = self._lost = self._reported = 0
