"""The way from the application's threads to the recorder's: bounded, counted, and cheap to enter.

A record may be handed over in the middle of handing one over: a stream that nobody reads any more ends
where it is found by the garbage collector, which may begin in any line, of ours too. So nothing here
holds a lock while it does something else; the queue is of the one kind that may be entered so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

from opentelemetry.trace import Span

from llamatelemetry.forks import after_fork
from llamatelemetry.inference.record import FinishedRecord

_log = logging.getLogger(__name__)

LateRecord = FinishedRecord | Callable[[], FinishedRecord]
"""A record, or what makes it."""

_Item = tuple[Span, LateRecord]


class Handover:
    """A bounded queue into one thread, which is started when first needed and again after a fork.

    Args:
        process: Called with each record in the recorder's thread.
        report_lost: Called there with how many records were given up since it was last called.
        limit: Records that may wait; past it the oldest is given up.
    """

    def __init__(
        self,
        process: Callable[[Span, LateRecord], None],
        report_lost: Callable[[int], None],
        limit: int,
    ) -> None:
        self._process = process
        self._report_lost = report_lost
        self._limit = limit
        self._waiting: SimpleQueue[_Item | threading.Event | None]
        self._lost: deque[None]
        self._reported: int
        self._unstarted: list[str]
        self._thread: threading.Thread | None
        self._stopped = False
        self._begin_anew()
        after_fork(self._begin_anew)

    def put(self, span: Span, record: LateRecord) -> None:
        """Takes a record; never blocks on the recorder and never raises."""
        if self._stopped:
            self._lose((span, record))
            return
        if self._waiting.qsize() >= self._limit:
            self._drop()
        self._waiting.put((span, record))
        self._start()

    def flush(self, timeout_s: float) -> bool:
        """Waits until what was put so far is processed; False if time ran out."""
        if self._stopped:
            return True
        if not self._waiting.empty():
            self._start()
        if self._unstarted:
            return self._waiting.empty()
        reached = threading.Event()
        self._waiting.put(reached)
        return reached.wait(timeout_s)

    def stop(self, timeout_s: float) -> int:
        """Processes what waits, within ``timeout_s``, and ends; returns how many records were lost."""
        deadline = time.monotonic() + timeout_s
        self.flush(timeout_s)
        self._stopped = True
        while self._drop():
            pass
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return len(self._lost)

    def _start(self) -> None:
        try:
            # Taken by one alone, whoever else is here: to look whether there is a thread would not do.
            name = self._unstarted.pop()
        except IndexError:
            return
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is ending or the machine is out of threads, which is nothing to tell the
            # application. The next record tries again; what waits until the end is counted as lost.
            self._thread = None
            self._unstarted.append(name)

    def _drop(self) -> bool:
        """Gives up the oldest that waits; False if nothing does."""
        try:
            item = self._waiting.get_nowait()
        except Empty:
            return False
        if item is not None:
            self._lose(item)
        return True

    def _lose(self, item: _Item | threading.Event) -> None:
        if isinstance(item, threading.Event):
            item.set()
        else:
            self._lost.append(None)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._process(*item)
                self._tell_lost()
            except Exception:  # noqa: BLE001 - one record that cannot be told must not silence those after it
                _log.exception("could not record a request")
            # It may hold an error, and so all that the application had where that was raised; the next may never come.
            del item

    def _tell_lost(self) -> None:
        if (lost := len(self._lost)) > self._reported:
            self._report_lost(lost - self._reported)
            self._reported = lost

    def _begin_anew(self) -> None:
        # After a fork, the parent's thread records what was waiting; the child begins with nothing.
        self._waiting = SimpleQueue()
        self._lost = deque()
        self._reported = 0
        self._unstarted = ["llamatelemetry-recorder"]
        self._thread = None
