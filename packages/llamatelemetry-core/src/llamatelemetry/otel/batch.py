"""A bounded queue with a thread behind it, which no collector can hold up.

The SDK's batch processors are not used: in release 1.45 their ``force_flush`` ignores its timeout,
``shutdown`` waits for an export that may take 30 s, what they lose they do not count, and a forked
child goes on with the parent's connections. :class:`Courier` promises the opposite of each. The
SDK's exporters do the sending; they only ever run in the courier's own daemon thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar

# Private, and what each exporting thread of the SDK itself sets: the API has no public name for
# the key that keeps HTTP instrumentation from tracing our own exports.
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

from llamatelemetry.forks import after_fork
from llamatelemetry.otel.delivery import Delivery, Signal

_T = TypeVar("_T")
_T_contra = TypeVar("_T_contra", contravariant=True)

QUEUE_SIZE: Final = 4096
"""Items that wait for one exporter where nobody says otherwise."""
BATCH_SIZE: Final = 512
"""Items of one export, likewise: OTEL_BSP_MAX_EXPORT_BATCH_SIZE's default in the OpenTelemetry specification."""
GRACE_S: Final = 0.2
"""Part of a shutdown kept back for a sender that was told to stop to do so."""

_logger = logging.getLogger(__name__)
_inherited: Final[list[object]] = []


class Sender(Protocol[_T_contra]):
    """Sends batches. All calls but :meth:`close` come from one thread."""

    def send(self, batch: Sequence[_T_contra], /) -> int:
        """Sends and says how many items arrived; when it raises, none did."""
        ...

    def close(self) -> None:
        """Ends a send that is under way, as far as that can be done, and releases what is held; never waits."""
        ...

    def disown(self) -> None:
        """Called in a forked child: lets go of what belongs to the parent without disturbing it."""
        ...


class Courier(Generic[_T]):
    """Takes items from any thread and has them sent from its own. Thread-safe; survives fork.

    Args:
        signal: What the items are.
        exporter: Where they go, for a reader.
        sender: Sends them.
        renew: Makes another sender, for a forked child; called in the courier's thread.
        delay_s: Longest that an item waits for others to share an export, in seconds.
        queue_size: Items that wait; past it the oldest are lost, and counted.
        batch_size: Most items of one export.
        collect: Called in the courier's thread every ``delay_s``, and before it flushes or ends; may :meth:`offer`.
            Such a courier works from :meth:`start` on.
    """

    def __init__(
        self,
        *,
        signal: Signal,
        exporter: str,
        sender: Sender[_T],
        renew: Callable[[], Sender[_T]],
        delay_s: float,
        queue_size: int = QUEUE_SIZE,
        batch_size: int = BATCH_SIZE,
        collect: Callable[[], None] | None = None,
    ) -> None:
        self._signal: Signal = signal
        self._exporter = exporter
        self._renew = renew
        # Longer than this no thread can wait: whoever says infinity means only when asked to.
        self._delay_s = min(delay_s, threading.TIMEOUT_MAX)
        self._queue_size = queue_size
        self._batch_size = min(batch_size, queue_size)
        self._collect = collect
        self._sender: Sender[_T] | None = sender
        self._closing = self._aborted = False
        self._reset()
        after_fork(self._after_fork)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[_T] = deque()
        self._thread: threading.Thread | None = None
        self._accepted = self._exported = self._lost = self._in_flight = 0
        self._asked = self._served = 0
        self._settled = self._collecting = False

    def start(self) -> None:
        """Starts the thread now instead of with the first item."""
        with self._changed:
            if self._thread is None:
                self._start()

    def offer(self, item: _T) -> None:
        """Queues an item; never waits and never raises."""
        with self._changed:
            self._accepted += 1
            if self._closing and threading.current_thread() is not self._thread:
                self._lost += 1
                return
            overflowed = len(self._queue) >= self._queue_size
            if overflowed:
                self._queue.popleft()
                self._lost += 1
            first_loss = overflowed and self._lost == 1
            self._queue.append(item)
            if self._thread is None:
                self._start()
            elif len(self._queue) == 1 or len(self._queue) >= self._batch_size:
                self._changed.notify_all()
        if first_loss:
            _logger.warning("the queue to %s is full: the oldest %s are being dropped", self._exporter, self._signal)

    def ask(self) -> int:
        """Asks for everything offered so far to be sent now; returns a ticket for :meth:`wait`."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def wait(self, ticket: int, deadline: float) -> bool:
        """Waits until ``ticket`` was served or ``time.monotonic()`` reaches ``deadline``; False if it was not."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._served >= ticket or self._settled or not (self._thread or self._queue),
                deadline - time.monotonic(),
            )

    def begin_close(self) -> None:
        """Refuses further items and sends what is queued."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, deadline: float) -> bool:
        """Waits for the thread until ``time.monotonic()`` reaches ``deadline``; True if it has ended."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(max(0.0, deadline - time.monotonic()))
        return not thread.is_alive()

    def abort(self) -> None:
        """Tells the sender to give up; once is enough."""
        already = self._aborted
        sender, self._aborted = self._sender, True
        if sender is not None and not already:
            try:
                sender.close()
            except Exception:
                # An exporter that cannot even close must not stop the others from closing.
                _logger.debug("closing the exporter to %s failed", self._exporter, exc_info=True)

    def settle(self) -> None:
        """Counts as lost what has not been sent by now; what a stuck sender still does changes nothing."""
        with self._changed:
            if not self._settled:
                self._settled = True
                # What is still being collected would have been one export, had the application's callbacks ended.
                self._accepted += self._collecting
                self._lost += len(self._queue) + self._in_flight + self._collecting
                self._queue.clear()
                self._changed.notify_all()

    def delivery(self) -> Delivery:
        """The account as it stands."""
        with self._changed:
            return Delivery(
                signal=self._signal,
                exporter=self._exporter,
                accepted=self._accepted,
                exported=self._exported,
                lost=self._lost,
            )

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"llamatelemetry-{self._signal}", daemon=True)
        if self._thread is not None:
            return  # By a span that the garbage collector found and ended while the thread was made.
        try:
            self._thread = thread
            thread.start()
        except RuntimeError:
            # No thread can be started: the interpreter is ending or the machine is out of them. What is
            # queued stays so, and is counted as lost when the courier is closed.
            self._thread = None

    def _run(self) -> None:
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # For the whole life of this thread.
        while True:
            with self._changed:
                if self._collect is None:
                    self._changed.wait_for(lambda: self._queue or self._is_urgent())
                self._changed.wait_for(self._is_urgent, self._delay_s)
                closing, ticket = self._closing, self._asked
            if self._collect is not None:
                self._collecting = True
                try:
                    self._collect()
                except Exception:
                    # Instruments call back into application code, which may raise anything.
                    _logger.warning("metrics could not be collected", exc_info=True)
                self._collecting = False
            self._drain()
            with self._changed:
                self._served = ticket
                self._changed.notify_all()
            if closing:
                return

    def _is_urgent(self) -> bool:
        return self._closing or self._asked > self._served or len(self._queue) >= self._batch_size

    def _drain(self) -> None:
        with self._changed:
            left = len(self._queue)  # What comes in meanwhile waits for the next round, so that this one ends.
        while left > 0 and not self._aborted:
            with self._changed:
                batch = [self._queue.popleft() for _ in range(min(self._batch_size, left, len(self._queue)))]
                self._in_flight = len(batch)
            if not batch:
                return
            left -= len(batch)
            arrived = self._send(batch)
            with self._changed:
                self._in_flight = 0
                if self._settled:
                    return
                self._exported += arrived
                self._lost += len(batch) - arrived

    def _send(self, batch: list[_T]) -> int:
        try:
            if self._sender is None:
                self._sender = self._renew()
            return self._sender.send(batch)
        except TypeError as error:
            if len(batch) > 1 and not self._aborted:
                # One item has something in it that cannot be told; those beside it are not lost with it.
                half = len(batch) // 2
                return self._send(batch[:half]) + self._send(batch[half:])
            return self._refused(batch, error)
        except Exception as error:  # noqa: BLE001 - whatever an exporter raises is counted, never the application's
            return self._refused(batch, error)

    def _refused(self, batch: list[_T], error: Exception) -> int:
        _logger.warning("%d %s could not be sent to %s: %r", len(batch), self._signal, self._exporter, error)
        return 0

    def _after_fork(self) -> None:
        if self._sender is not None:
            self._sender.disown()
            _inherited.append(self._sender)  # Never collected: its destructor could reach the parent's connection.
            self._sender = None
        was_collecting = self._collect is not None and self._thread is not None and not self._closing
        self._reset()
        if was_collecting:
            self._start()


def flush_all(couriers: Iterable[Courier[_T]], deadline: float) -> bool:
    """Sends everything that was offered, all couriers at once.

    Args:
        couriers: Whose queues to empty.
        deadline: When to give up, as ``time.monotonic()`` counts.

    Returns:
        Whether all of it arrived.
    """
    asked = [(courier, courier.delivery().lost, courier.ask()) for courier in couriers]
    arrived = [courier.wait(ticket, deadline) and courier.delivery().lost == lost for courier, lost, ticket in asked]
    return all(arrived)


def close_all(couriers: Iterable[Courier[_T]], deadline: float) -> tuple[Delivery, ...]:
    """Sends what is queued and ends the threads, all couriers at once, by ``deadline`` whatever happens.

    Args:
        couriers: What to end; ending one again changes nothing.
        deadline: When to give up, as ``time.monotonic()`` counts.
    """
    couriers = list(couriers)
    grace = min(GRACE_S, (deadline - time.monotonic()) / 4)
    for courier in couriers:
        courier.begin_close()
    late = [courier for courier in couriers if not courier.join(deadline - grace)]
    for courier in couriers:
        courier.abort()
    for courier in late:
        # A sender that was told to stop logs so; let it finish before the interpreter takes stderr away.
        courier.join(deadline)
    for courier in couriers:
        courier.settle()
    return tuple(courier.delivery() for courier in couriers)
