"""One thread that reads the GPUs for everybody, so that no request ever waits for a driver.

It runs while somebody listens and the driver lists a device, keeps to a schedule that does not
drift, and skips rounds it is too late for instead of making up for them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import Final

from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.errors import InvalidValueError, UnknownNameError
from llamatelemetry.gpu.device import GPUDevice
from llamatelemetry.gpu.history import History
from llamatelemetry.gpu.reader import GPUReader
from llamatelemetry.gpu.rounds import Rounds
from llamatelemetry.gpu.snapshot import GPUSnapshot, Tick
from llamatelemetry.gpu.subscription import Subscription

SHORTEST_INTERVAL_S: Final = 0.01
STUCK_NS: Final = 1_000_000_000
"""A round that takes longer hangs in the driver: nobody waits for it any more."""
CLOSE_S: Final = 1.0
"""Longest that closing waits for a round to end."""


class GPUSampler:
    """Samples GPUs for all who listen. Thread-safe.

    Args:
        reader: Reads them, in the sampler's thread only.
        interval_s: Seconds between rounds; 0.1 to 0.2 is what drivers bear without slowing work down.
        retention_s: Seconds of samples that are kept, in memory that is taken at once: 57 bytes each.
        clock: Times of samples come from its monotonic source. The thread itself waits in real time.
        background: False for no thread: :meth:`tick` alone reads then.

    Raises:
        InvalidValueError: The interval is too short, or the retention shorter than it.
    """

    def __init__(
        self,
        reader: GPUReader,
        *,
        interval_s: float = 0.1,
        retention_s: float = 600.0,
        clock: Clock = SYSTEM_CLOCK,
        background: bool = True,
    ) -> None:
        if not interval_s >= SHORTEST_INTERVAL_S:
            raise InvalidValueError("interval_s", interval_s, f"give {SHORTEST_INTERVAL_S} s or more")
        if not interval_s <= retention_s < float("inf"):
            raise InvalidValueError("retention_s", retention_s, "give at least one interval, and an end")
        self.interval_s = interval_s
        self._now = clock.monotonic_ns
        self._background = background
        self._rounds = Rounds(reader, interval_s=interval_s, retention_s=retention_s, clock=clock)
        self._subscriptions: tuple[Subscription, ...] = ()
        self._skipped = 0
        self._idle = False  # The driver listed no device: no thread until somebody else subscribes.
        self._ticked_ns: int | None = None
        self._thread: threading.Thread | None = None
        self._busy_since_ns: int | None = None
        self._changed = threading.Condition(threading.Lock())
        self._reading = threading.Lock()
        self._alarm = _held_lock()
        _samplers.add(self)

    @property
    def devices(self) -> tuple[GPUDevice, ...]:
        """The devices known, lost ones too; none before the first round."""
        return self._rounds.devices

    @property
    def skipped_rounds(self) -> int:
        """Rounds that were left out because the one before took too long."""
        return self._skipped

    def subscribe(self, on_tick: Callable[[Tick], None] | None = None) -> Subscription:
        """Listens: the first to do so starts the sampler.

        Args:
            on_tick: Called in the sampler's thread with each round, before :meth:`wait_past` tells of
                it; has to be quick. None to only look at what was sampled.
        """
        subscription = Subscription(on_tick, self._unsubscribe)
        with self._changed:
            self._subscriptions = (*self._subscriptions, subscription)
            self._idle = False
            self._start()
        return subscription

    def snapshots(self) -> tuple[GPUSnapshot, ...]:
        """All that is known of each device; empty before the first round."""
        self._revive()
        snapshots = (track.snapshot() for track in self._rounds.tracks)
        return tuple(snapshot for snapshot in snapshots if snapshot is not None)

    def history(self, uuid: str) -> History:
        """The samples of one device.

        Raises:
            UnknownNameError: No device of that UUID was sampled.
        """
        self._revive()
        for track in self._rounds.tracks:
            if track.device.uuid == uuid:
                return track.history
        raise UnknownNameError("GPU", uuid, tuple(device.uuid for device in self.devices))

    def wait_past(self, monotonic_ns: int, timeout_s: float) -> bool:
        """Waits for a round that began at that moment or later, and for its listeners to be told.

        Returns:
            Whether there was one. It is False at once where none can be expected, because nobody listens,
            there is no device, the thread hangs in the driver, or it is the thread that asks.
        """
        self._revive()
        with self._changed:
            self._changed.wait_for(lambda: self._has_passed(monotonic_ns) or not self._is_ticking(), timeout_s)
            return self._has_passed(monotonic_ns)

    def tick(self, *, everything: bool = False) -> Tick | None:
        """One round by hand, in this thread; it opens the reader if nobody did, and :meth:`close` closes it.

        Args:
            everything: Also take the slow and rare readings of all devices, whatever is due.

        Returns:
            The round; None where there is no device, or while another round is under way.
        """
        if not self._reading.acquire(blocking=False):
            return None
        try:
            self._busy_since_ns = self._now()
            tick = self._rounds.read()
            if tick is not None:
                for subscription in self._subscriptions:
                    subscription.hand(tick)
                with self._changed:
                    self._ticked_ns = tick.monotonic_ns
                    self._changed.notify_all()
                if everything:
                    self._rounds.read_everything()
                else:
                    self._rounds.read_rare()
            return tick
        finally:
            self._busy_since_ns = None
            self._reading.release()

    def close(self) -> None:
        """Ends all subscriptions and closes the reader, within about a second even if the driver hangs."""
        with self._changed:
            self._subscriptions = ()
        self._settle()

    def _unsubscribe(self, subscription: Subscription) -> None:
        with self._changed:
            left = tuple(other for other in self._subscriptions if other is not subscription)
            was_last = bool(self._subscriptions) and not left
            self._subscriptions = left
        if was_last:
            self._settle()

    def _settle(self) -> None:
        """Waits for the thread to close the reader, or closes it where there is no thread."""
        with self._changed:
            thread = self._thread
            self._changed.notify_all()
            self._wake()
            if thread is not None and thread is not threading.current_thread():
                # Somebody may subscribe meanwhile, and the thread go on.
                self._changed.wait_for(lambda: self._thread is not thread or self._subscriptions, CLOSE_S)
            has_ended = self._thread is not thread
        if thread is None:
            self._let_go()
        elif has_ended:
            thread.join(CLOSE_S)

    def _let_go(self) -> None:
        if self._reading.acquire(timeout=CLOSE_S):
            try:
                self._rounds.close()
            finally:
                self._reading.release()

    def _start(self) -> None:
        if not (self._background and self._thread is None and self._subscriptions) or self._idle:
            return
        self._thread = threading.Thread(target=self._run, name="llamatelemetry-gpu", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # No thread can be started: the interpreter is ending or the machine is out of them.
            self._thread = None

    def _revive(self) -> None:
        """Starts the thread again in a child process, where somebody listens to what the parent sampled."""
        if self._thread is None and self._subscriptions:
            with self._changed:
                self._start()

    def _run(self) -> None:
        due_ns = self._now()
        while True:
            began_ns = self._now()
            self.tick()
            due_ns = self._next_round(due_ns, began_ns)
            if self._sleep_until(due_ns):
                continue
            self._let_go()
            with self._changed:
                self._idle = bool(self._subscriptions) and not self._rounds.tracks
                if self._idle or not self._subscriptions:
                    self._thread = None
                    self._changed.notify_all()
                    return

    def _next_round(self, due_ns: int, began_ns: int) -> int:
        """The next moment of the schedule that is to come after a round; those that passed are left out."""
        interval_ns = round(self.interval_s * 1e9)
        skipped = (max(began_ns, self._now() - 1) - due_ns) // interval_ns
        self._skipped += skipped
        return due_ns + (skipped + 1) * interval_ns

    def _sleep_until(self, due_ns: int) -> bool:
        """Waits; False if there is nothing to wait for."""
        while self._subscriptions and self._rounds.tracks:
            left_ns = due_ns - self._now()
            if left_ns <= 0:
                return True
            # A condition takes twice the time to wait on, ten times a second.
            self._alarm.acquire(timeout=left_ns / 1e9)
        return False

    def _wake(self) -> None:
        """Has the thread look whether there is something to wait for."""
        with contextlib.suppress(RuntimeError):  # It was woken already.
            self._alarm.release()

    def _has_passed(self, monotonic_ns: int) -> bool:
        return self._ticked_ns is not None and self._ticked_ns >= monotonic_ns

    def _is_ticking(self) -> bool:
        thread, busy_since_ns = self._thread, self._busy_since_ns
        if thread is None or thread is threading.current_thread() or not thread.is_alive() or not self._subscriptions:
            return False
        return busy_since_ns is None or self._now() - busy_since_ns <= STUCK_NS

    def _after_fork(self) -> None:
        self._thread = self._busy_since_ns = None
        self._changed = threading.Condition(threading.Lock())
        self._reading = threading.Lock()
        self._alarm = _held_lock()
        self._rounds.after_fork()


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


_samplers: weakref.WeakSet[GPUSampler] = weakref.WeakSet()


def _close_all() -> None:
    """A driver's library must not be unloaded under a thread that is inside it."""
    for sampler in list(_samplers):
        sampler.close()


def _after_fork() -> None:
    for sampler in list(_samplers):
        sampler._after_fork()  # noqa: SLF001 - of this module


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork)
