"""The instruments that observe GPUs. A reader that collects gets what was sampled last: NVML is not asked."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, Self

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from llamatelemetry.gpu.snapshot import GPUSnapshot
from llamatelemetry.gpu.totals import EnergyTotals
from llamatelemetry.semconv.attributes import AttributeValue
from llamatelemetry.semconv.hw import (
    ENERGY_SPLIT,
    ENERGY_USE,
    ENERGY_USES,
    FIXED,
    GPU_METRICS,
    HW_DRIVER_VERSION,
    HW_ID,
    OBSERVED,
    ObservedReading,
)
from llamatelemetry.semconv.metrics import Instrument
from llamatelemetry.semconv.profiles import mapping_of

_logger = logging.getLogger(__name__)


class GPUInstruments:
    """Observes the GPUs of this process until :meth:`close`. Its callbacks never raise.

    A process has one sampler, so the last one made is the one that is observed, on whatever meter.

    Args:
        meter: Makes the instruments.
        snapshots: The latest snapshot of each device; must cost next to nothing.
        driver_version: Version of the driver; None for not known.
        energy: The split of each device's energy so far, by the device's UUID.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        snapshots: Callable[[], Sequence[GPUSnapshot]],
        driver_version: Callable[[], str | None] = lambda: None,
        energy: Callable[[], Mapping[str, EnergyTotals]] = dict,
    ) -> None:
        self.snapshots: Final = snapshots
        self.driver_version: Final = driver_version
        self.energy: Final = energy
        _install(self)
        make = {
            "observable_counter": meter.create_observable_counter,
            "observable_up_down_counter": meter.create_observable_up_down_counter,
            "observable_gauge": meter.create_observable_gauge,
        }
        totals = RisingTotals()
        for row in GPU_METRICS:
            make[row.kind](row.name, [_observer(row, totals)], row.unit, row.brief)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the observation; idempotent."""
        _uninstall(self)


class RisingTotals:
    """Counters that never fall, made from counts that may begin anew, as a driver's do when it is loaded again.

    What was counted between such a beginning and the first look at it is left out: rather too little
    than twice.
    """

    def __init__(self) -> None:
        self._latest: dict[Hashable, tuple[float, float]] = {}

    def total(self, key: Hashable, count: float) -> float:
        """What was counted in all.

        Args:
            key: Which counter it is.
            count: What it says now.
        """
        before, total = self._latest.get(key, (0, 0))
        total += max(0, count - before)
        self._latest[key] = (count, total)
        return total


# An SDK ignores the callbacks of an instrument made again, so those that it keeps must find whoever is
# observed now. They keep their totals, because a counter of an adopted provider must not fall either.
_current: GPUInstruments | None = None
# Held while a counter is read and added up: of two readers at once, the later must see the later count.
_lock = threading.Lock()


def _install(instruments: GPUInstruments) -> None:
    global _current  # noqa: PLW0603  a process has one sampler
    _current = instruments


def _uninstall(instruments: GPUInstruments) -> None:
    global _current  # noqa: PLW0603  a process has one sampler
    if _current is instruments:
        _current = None


def _observer(instrument: Instrument, totals: RisingTotals) -> Callable[[CallbackOptions], Iterable[Observation]]:
    read = _split_reader(totals) if instrument is ENERGY_SPLIT else _reader(instrument, totals)

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        try:
            with _lock:
                return [] if _current is None else list(read(_current))
        except Exception as error:  # noqa: BLE001 - telemetry may lose figures, never break its application
            _logger.debug("no figures for %s: %s", instrument.name, error)
            return []

    return observe


def _reader(instrument: Instrument, totals: RisingTotals) -> Callable[[GPUInstruments], Iterator[Observation]]:
    """What observes the rows of one instrument, compiled once."""
    fixed = {row.name: value for row, value in FIXED if row in instrument.attributes}
    identity = mapping_of(row for row in instrument.attributes if row.field)
    rows = [
        (row, attrgetter(row.field), {attribute.name: value for attribute, value in row.fixed})
        for row in OBSERVED
        if row.instrument is instrument
    ]
    has_version = HW_DRIVER_VERSION in instrument.attributes

    def read(observed: GPUInstruments) -> Iterator[Observation]:
        version = observed.driver_version() if has_version else None
        shared = fixed if version is None else {**fixed, HW_DRIVER_VERSION.name: version}
        for snapshot in observed.snapshots():
            carried = {**identity(snapshot), **shared}
            for row, get, own in rows:
                value = None if snapshot.lost and not row.when_lost else get(snapshot)
                if value is not None:
                    yield from _observations(row, value, {**carried, **own}, totals)

    return read


def _observations(
    row: ObservedReading, value: Any, attributes: dict[str, AttributeValue], totals: RisingTotals
) -> Iterator[Observation]:
    if row.one_of is None:
        yield Observation(_figure(row.instrument, value * row.scale, attributes, totals), attributes)
        return
    attribute, names = row.one_of
    for name in names:
        yield Observation(int(name == value), {**attributes, attribute.name: name})


def _split_reader(totals: RisingTotals) -> Callable[[GPUInstruments], Iterator[Observation]]:
    def read(observed: GPUInstruments) -> Iterator[Observation]:
        lost = {snapshot.device.uuid for snapshot in observed.snapshots() if snapshot.lost}
        for uuid, split in observed.energy().items():
            if uuid in lost:
                continue
            for field, use in ENERGY_USES:
                attributes: dict[str, AttributeValue] = {HW_ID.name: uuid, ENERGY_USE.name: use}
                yield Observation(_figure(ENERGY_SPLIT, getattr(split, field), attributes, totals), attributes)

    return read


def _figure(
    instrument: Instrument, value: float, attributes: Mapping[str, AttributeValue], totals: RisingTotals
) -> float:
    """The value as it is sent: bytes, errors and states whole, all else not, whatever the reading happens to be."""
    if instrument.kind == "observable_counter":
        # By device and what tells rows apart; a driver that was updated is no new counter.
        told = (item for item in attributes.items() if item[0] != HW_DRIVER_VERSION.name)
        value = totals.total((instrument.name, *sorted(told)), value)
    whole = instrument.kind != "observable_gauge" and instrument.unit != "J"
    return int(value) if whole else float(value)


def _forget_parents_lock() -> None:
    """A child process must not wait for a reader thread that it does not have."""
    global _lock  # noqa: PLW0603  it may be held for ever
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_parents_lock)
