"""The instruments of the profiles in use, made once and recorded on once per request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.inference import live
from llamatelemetry.semconv import metrics
from llamatelemetry.semconv.facts import InferenceFacts
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
        self._record = {row.name: _recording_of(meter, row) for row in metrics.request_instruments(profiles)}
        self._add_dropped = _recording_of(meter, metrics.RECORDS_DROPPED)
        for row, field in ((metrics.QUEUE_DEPTH, "queue_depth"), (metrics.REQUESTS_ACTIVE, "requests_active")):
            meter.create_observable_up_down_counter(row.name, [_observer(field)], row.unit, row.brief)

    def record(self, facts: InferenceFacts, context: Context) -> None:
        """Records every figure of one request, in its span's context, so that exemplars lead to it."""
        for name, value, attributes in metrics.measurements(facts, self._profiles):
            self._record[name](value, attributes, context)

    def dropped(self, records: int) -> None:
        """Counts records that were given up."""
        self._add_dropped(records)


def _recording_of(meter: Meter, row: metrics.Instrument) -> _Recording:
    made: Histogram | Counter
    if row.kind == "histogram":
        made = meter.create_histogram(
            row.name, row.unit, row.brief, explicit_bucket_boundaries_advisory=list(row.buckets)
        )
        return made.record
    made = meter.create_counter(row.name, row.unit, row.brief)
    return made.add


def _observer(field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        totals: dict[ModelInfo, int] = {}
        for engine in live.stats():
            totals[engine.model] = totals.get(engine.model, 0) + getattr(engine, field)
        for model, total in totals.items():
            attributes = metrics.model_metric_attributes(
                provider=model.provider,
                model=model.model,
                server_address=model.server_address,
                server_port=model.server_port,
            )
            yield Observation(total, attributes)

    return observe
