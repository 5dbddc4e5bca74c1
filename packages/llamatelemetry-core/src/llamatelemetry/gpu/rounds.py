"""Rounds over all GPUs: each figure in its own time, and GPUs that go and come back.

Most figures cost microseconds and are read in every round. Temperature, clocks and errors change
slowly and are read each second, at different moments for different devices. Process lists and PCIe
traffic take milliseconds (the driver itself waits 20 ms for each direction of PCIe), so they are read
after a round was handed out, of one device every five seconds to one every second, the more there are:
the next round is then still on time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Final, TypeVar

from llamatelemetry.clock import Clock
from llamatelemetry.gpu.device import DriverState, DriverStatus, FastReading, GPUDevice, RareReading, SlowReading
from llamatelemetry.gpu.reader import GPUReader
from llamatelemetry.gpu.snapshot import Sample, Tick
from llamatelemetry.gpu.track import Track

SLOW_PERIOD_NS: Final = 1_000_000_000
RARE_PERIOD_NS: Final = 5_000_000_000
RARE_SPACING_NS: Final = 1_000_000_000
"""Rare readings are no closer than this, whatever the number of devices: the driver waits 40 ms in each."""
RETRY_NS: Final = 5_000_000_000
"""How long after a loss the driver is opened again; a device that stays away is looked for less and less."""
LONGEST_RETRY_NS: Final = 60_000_000_000

_R = TypeVar("_R")
_log = logging.getLogger(__name__)


class Rounds:
    """Reads all devices again and again, for one thread at a time.

    Args:
        reader: Reads one device; whatever it raises is logged once and taken for no answer.
        interval_s: Seconds between rounds, as they are meant.
        retention_s: Seconds that samples are kept.
        clock: Tells when a reading was taken.

    Attributes:
        tracks: The devices known, in the reader's order and then those that it lists no more.
        devices: The same as the reader described them last.
    """

    def __init__(self, reader: GPUReader, *, interval_s: float, retention_s: float, clock: Clock) -> None:
        self.tracks: tuple[Track, ...] = ()
        self.devices: tuple[GPUDevice, ...] = ()
        self._reader = reader
        self._now = clock.monotonic_ns
        self._capacity = round(retention_s / interval_s) + 1
        self._retention_ns = round(retention_s * 1e9)
        self._interval_ns = round(interval_s * 1e9)
        self._slow = self._rare = _Turns((), first_ns=0, period_ns=0, slack_ns=0, at_most=0)
        self._opened = False
        self._retry_ns: int | None = None
        self._said: set[str] = set()

    def read(self) -> Tick | None:
        """One round of fast readings, and the slow ones that are due; None where there is no device."""
        now_ns = self._now()
        found = not self._opened or (self._retry_ns is not None and now_ns >= self._retry_ns)
        if found:
            self._open(now_ns)
        if not self.tracks:
            return None
        for track in self._slow.due(now_ns):
            track.slow = self._ask(self._reader.slow, track.device, SlowReading)
        samples = tuple(
            self._sample(track) if track.lost_ns is None or (found and track.listed) else track.lose(self._now())
            for track in self.tracks
        )
        if found:
            self._plan_retry(now_ns)
        return Tick(monotonic_ns=now_ns, samples=samples)

    def read_rare(self) -> None:
        """The rare reading of the device whose turn it is, if it is due."""
        for track in self._rare.due(self._now()):
            track.rare = self._ask(self._reader.rare, track.device, RareReading)

    def read_everything(self) -> None:
        """The slow and rare readings of all devices, whatever is due."""
        for track in self.tracks:
            if track.lost_ns is None:
                track.slow = self._ask(self._reader.slow, track.device, SlowReading)
                track.rare = self._ask(self._reader.rare, track.device, RareReading)

    def close(self) -> None:
        """Lets go of the driver; what was read is kept, and the next round opens it again."""
        if self._opened:
            self._opened = False
            try:
                self._reader.close()
            except Exception:  # noqa: BLE001 - whatever a reader raises, it is let go of
                self._complain("close")

    def after_fork(self) -> None:
        """What the parent opened is no use here, and is not for us to close."""
        self._opened = False
        for track in self.tracks:
            track.history.after_fork()

    def _sample(self, track: Track) -> Sample:
        now_ns = self._now()
        device, was_lost = track.device, track.lost_ns is not None
        try:
            if (fast := self._reader.fast(device)) is not None:
                sample = track.take(now_ns, fast)
                if was_lost:
                    _log.info("GPU %s (%s) answers again", device.uuid, device.name)
                return sample
        except Exception:  # noqa: BLE001 - whatever a reader raises, the other devices are read
            self._complain("fast")
            return track.take(now_ns, FastReading())
        return self._lose(track, now_ns)

    def _lose(self, track: Track, now_ns: int) -> Sample:
        if track.lost_ns is None:
            retry_ns = now_ns + RETRY_NS
            self._retry_ns = retry_ns if self._retry_ns is None else min(self._retry_ns, retry_ns)
            uuid, name = track.device.uuid, track.device.name
            _log.warning("GPU %s (%s) does not answer: its figures pause until it does", uuid, name)
        return track.lose(now_ns)

    def _ask(self, question: Callable[[GPUDevice], _R], device: GPUDevice, nothing: Callable[[], _R]) -> _R:
        try:
            return question(device)
        except Exception:  # noqa: BLE001 - as in _sample
            self._complain(getattr(question, "__name__", "reading"))
            return nothing()

    def _complain(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning("the GPU reader raised in %s(), which is taken for no answer", what, exc_info=True)

    def _open(self, now_ns: int) -> None:
        try:
            status = self._reader.open()
            devices = self._reader.devices if status.state is DriverState.READY else ()
        except Exception as error:  # noqa: BLE001 - no driver must never stop an application
            self._complain("open")
            status, devices = DriverStatus(state=DriverState.FAILED, message=f"the reader raised {error!r}"), ()
        gone = {track.device.uuid: track for track in self.tracks}
        tracks = []
        for device in devices:
            track = gone.pop(device.uuid, None) or Track(
                device, self._capacity, max(SLOW_PERIOD_NS, 10 * self._interval_ns)
            )
            track.device, track.listed = device, True
            tracks.append(track)
        for track in gone.values():
            track.listed = False
            self._lose(track, now_ns)
            if track.lost_ns is None or now_ns - track.lost_ns <= self._retention_ns:
                tracks.append(track)
        self._opened = bool(tracks)
        if not tracks and status.message not in self._said:
            self._said.add(status.message)
            _log.info("no GPU figures: %s", f"{status.message} {status.fix}".strip())
        self._follow(tracks, now_ns)

    def _follow(self, tracks: list[Track], now_ns: int) -> None:
        """Takes turns anew. The first slow readings are taken at once, so that no sample is without them."""
        for track in tracks:
            if track.listed:
                track.slow = self._ask(self._reader.slow, track.device, SlowReading)
        at_most = ceil(len(tracks) * self._interval_ns / SLOW_PERIOD_NS)
        slack_ns = self._interval_ns // 2
        self._slow = _Turns(
            tracks, first_ns=now_ns + SLOW_PERIOD_NS, period_ns=SLOW_PERIOD_NS, slack_ns=slack_ns, at_most=at_most
        )
        self._rare = _Turns(
            tracks,
            first_ns=now_ns,
            period_ns=max(RARE_PERIOD_NS, len(tracks) * RARE_SPACING_NS),
            slack_ns=slack_ns,
            at_most=1,
            at_once=len(tracks),
        )
        self.tracks, self.devices = tuple(tracks), tuple(track.device for track in tracks)

    def _plan_retry(self, now_ns: int) -> None:
        lost_for_ns = [now_ns - track.lost_ns for track in self.tracks if track.lost_ns is not None]
        self._retry_ns = None
        if lost_for_ns:
            self._retry_ns = now_ns + min(LONGEST_RETRY_NS, max(RETRY_NS, min(lost_for_ns) // 4))


class _Turns:
    """Devices in turns, evenly spaced in time.

    Args:
        tracks: The devices.
        first_ns: When the first turn is due.
        period_ns: From one turn of a device to its next.
        slack_ns: A turn may be so much early, so that a round that is early does not put it off by a whole round.
        at_most: Devices in a round.
        at_once: How many turns are not spaced, so that of no device nothing is known for long.
    """

    def __init__(
        self, tracks: Sequence[Track], *, first_ns: int, period_ns: int, slack_ns: int, at_most: int, at_once: int = 0
    ) -> None:
        self._queue = deque(tracks)
        self._due_ns = first_ns
        self._spacing_ns = period_ns // max(1, len(tracks))
        self._slack_ns = slack_ns
        self._at_most = min(at_most, len(tracks))
        self._at_once = at_once

    def due(self, now_ns: int) -> Iterator[Track]:
        """The devices whose turn it is and that answer."""
        for _ in range(self._at_most):
            if self._due_ns > now_ns + self._slack_ns:
                return
            track = self._queue[0]
            self._queue.rotate(-1)
            self._at_once -= 1
            if self._at_once <= 0:
                # Turns that were missed, while the machine slept, are left out.
                self._due_ns = max(self._due_ns, now_ns - self._slack_ns) + self._spacing_ns
            if track.lost_ns is None:
                yield track
