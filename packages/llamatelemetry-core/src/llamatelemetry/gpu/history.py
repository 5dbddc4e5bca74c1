"""What was sampled of one GPU lately, in memory that is taken once and never grows."""

from __future__ import annotations

import struct
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import isnan, nan
from typing import Final

from llamatelemetry.gpu.device import FastReading
from llamatelemetry.gpu.snapshot import Sample

# monotonic_ns, memory, energy; utilizations, power, temperature; which throttle reasons.
_RECORD: Final = struct.Struct("<qqqddddB")
_TIME: Final = struct.Struct("<q")
_MISSING: Final = -1
_REASONS_KEPT: Final = 1 << 8  # Sets of reasons that were ever seen; one more than these is told as unknown.


class History:
    """The samples of one device that are kept, oldest first; while it was lost there are none. Thread-safe.

    Args:
        uuid: The device.
        capacity: Samples that are kept; the memory for them is taken at once.
    """

    __slots__ = ("_capacity", "_lock", "_reasons", "_records", "_uuid", "_written")

    def __init__(self, uuid: str, capacity: int) -> None:
        self._uuid = uuid
        self._capacity = capacity
        self._records = bytearray(capacity * _RECORD.size)
        self._written = 0
        # Reasons are few and come again and again: a record holds where in this list they stand.
        self._reasons: list[tuple[str, ...] | None] = [None]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return min(self._written, self._capacity)

    @property
    def latest(self) -> Sample | None:
        """The newest sample; None where there is none."""
        with self._lock:
            kept = len(self)
            records = self._copy(max(0, kept - 1), kept)
        return self._samples(records)[0] if records else None

    def between(self, start_ns: int, end_ns: int) -> Sequence[Sample]:
        """The samples taken from ``start_ns`` to ``end_ns``, both included, oldest first."""
        with self._lock:
            kept = range(len(self))
            first = bisect_left(kept, start_ns, key=self._time)
            records = self._copy(first, bisect_right(kept, end_ns, lo=first, key=self._time))
        return self._samples(records)

    def _place(self, position: int) -> int:
        """Where in memory the record stands that is so many after the oldest."""
        oldest = max(0, self._written - self._capacity)
        return (oldest + position) % self._capacity * _RECORD.size

    def _time(self, position: int) -> int:
        (monotonic_ns,) = _TIME.unpack_from(self._records, self._place(position))
        return int(monotonic_ns)

    def _copy(self, first: int, end: int) -> bytes:
        """Some records as they stand: they are decoded without the lock, which the sampler needs."""
        if first >= end:
            return b""
        start, last = self._place(first), self._place(end - 1)
        if start <= last:
            return bytes(self._records[start : last + _RECORD.size])
        return bytes(self._records[start:] + self._records[: last + _RECORD.size])

    def _samples(self, records: bytes) -> list[Sample]:
        return [
            Sample(
                uuid=self._uuid,
                monotonic_ns=monotonic_ns,
                fast=FastReading(
                    memory_used_bytes=None if memory == _MISSING else memory,
                    utilization=None if isnan(gpu) else gpu,
                    memory_controller_utilization=None if isnan(controller) else controller,
                    power_w=None if isnan(power) else power,
                    energy_mj=None if energy == _MISSING else energy,
                ),
                temperature_c=None if isnan(temperature) else temperature,
                throttle_reasons=self._reasons[reasons],
            )
            for monotonic_ns, memory, energy, gpu, controller, power, temperature, reasons in _RECORD.iter_unpack(
                records
            )
        ]


class SampleRing(History):
    """A history that is written to: once it is full, each sample takes the place of the oldest."""

    __slots__ = ("_latest_number", "_latest_reasons")

    def __init__(self, uuid: str, capacity: int) -> None:
        super().__init__(uuid, capacity)
        self._latest_number = 0
        self._latest_reasons: tuple[str, ...] | None = None

    def append(self, sample: Sample) -> None:
        """Keeps a sample; one writer at a time, and none older than the one before.

        Raises:
            struct.error: A figure is no number, or larger than NVML has place for.
        """
        fast, reasons = sample.fast, sample.throttle_reasons
        if reasons is not self._latest_reasons:
            self._latest_number, self._latest_reasons = self._number(reasons), reasons
        memory, energy, temperature = fast.memory_used_bytes, fast.energy_mj, sample.temperature_c
        gpu, controller, power = fast.utilization, fast.memory_controller_utilization, fast.power_w
        record = _RECORD.pack(
            sample.monotonic_ns,
            _MISSING if memory is None else memory,
            _MISSING if energy is None else energy,
            nan if gpu is None else gpu,
            nan if controller is None else controller,
            nan if power is None else power,
            nan if temperature is None else temperature,
            self._latest_number,
        )
        with self._lock:
            place = self._written % self._capacity * _RECORD.size
            self._records[place : place + _RECORD.size] = record
            self._written += 1

    def after_fork(self) -> None:
        """Frees the child of a lock that a thread of its parent held."""
        self._lock = threading.Lock()

    def _number(self, reasons: tuple[str, ...] | None) -> int:
        try:
            return self._reasons.index(reasons)
        except ValueError:
            if len(self._reasons) == _REASONS_KEPT:
                return 0
            self._reasons.append(reasons)
            return len(self._reasons) - 1
