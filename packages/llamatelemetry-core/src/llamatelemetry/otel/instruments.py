"""The instruments of the profiles in use, made once and recorded on once per request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation

from llamatelemetry.inference import live
from llamatelemetry.inference.live import EngineStats
from llamatelemetry.semconv.engine_metrics import OBSERVED, RECORDS_DROPPED, ObservedStat
from llamatelemetry.semconv.facts import InferenceFacts
from llamatelemetry.semconv.measurements import measurements, request_instruments
from llamatelemetry.semconv.metrics import Instrument, model_metric_attributes
from llamatelemetry.semconv.profiles import Profile


class _Recording(Protocol):
    def __call__(self, amount: float, attributes: Any = None, context: Context | None = None) -> None: ...


class Instruments:
    """Everything a request is measured with, and what observes the live engines.

    Args:
        meter: Makes the instruments.
        profiles: Profiles whose names they take.
    """

    def __init__(self, meter: Meter, profiles: tuple[Profile, ...]) -> None:
        self._profiles = profiles
        self._record = {row.name: _recording_of(meter, row) for row in request_instruments(profiles)}
        self._add_dropped = _recording_of(meter, RECORDS_DROPPED)
        make = {
            "observable_counter": meter.create_observable_counter,
            "observable_up_down_counter": meter.create_observable_up_down_counter,
        }
        for row in dict.fromkeys(stat.instrument for stat in OBSERVED):
            make[row.kind](row.name, [_observer(row)], row.unit, row.brief)

    def record(self, facts: InferenceFacts, context: Context) -> None:
        """Records every figure of one request, in its span's context, so that exemplars lead to it."""
        for name, value, attributes in measurements(facts, self._profiles):
            self._record[name](value, attributes, context)

    def dropped(self, records: int) -> None:
        """Counts records that were given up."""
        self._add_dropped(records)


def _recording_of(meter: Meter, row: Instrument) -> _Recording:
    made: Histogram | Counter
    if row.kind == "histogram":
        made = meter.create_histogram(
            row.name, row.unit, row.brief, explicit_bucket_boundaries_advisory=list(row.buckets)
        )
        return made.record
    made = meter.create_counter(row.name, row.unit, row.brief)
    return made.add


def _observer(instrument: Instrument) -> Callable[[CallbackOptions], Iterable[Observation]]:
    rows = [row for row in OBSERVED if row.instrument is instrument]
    counts = instrument.kind == "observable_counter"

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        totals: dict[tuple[tuple[str, Any], ...], int] = {}
        # A count must not fall when an engine is closed; what waits and runs there is gone with it.
        for stats in (*live.stats(), *(live.closed() if counts else ())):
            for row in rows:
                for attributes, value in _values(row, stats):
                    totals[attributes] = totals.get(attributes, 0) + value
        return [Observation(total, dict(attributes)) for attributes, total in totals.items()]

    return observe


def _values(row: ObservedStat, engine: EngineStats) -> Iterator[tuple[tuple[tuple[str, Any], ...], int]]:
    """What an engine has to say on one row: attributes, in a fixed order, and the figure."""
    for stats in (engine,) if row.shared or not engine.backends else engine.backends:
        value = getattr(stats, row.field)
        if value is None:
            continue
        attributes = (*_attributes_of(row, stats),)
        if row.keyed_by is None:
            yield attributes, value
        elif isinstance(value, Mapping):
            for key, figure in value.items():
                yield (*attributes, (row.keyed_by.name, key)), figure


def _attributes_of(row: ObservedStat, stats: EngineStats) -> Iterator[tuple[str, Any]]:
    model = stats.model
    yield from model_metric_attributes(
        provider=model.provider,
        model=model.model,
        server_address=model.server_address,
        server_port=model.server_port,
    ).items()
    yield from ((attribute.name, value) for attribute, value in row.fixed)
    yield from ((each.name, getattr(stats, each.field)) for each in row.read)
