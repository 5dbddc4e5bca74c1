"""What a stage and its steps are measured with."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter

from llamatelemetry.pipeline.step_log import TrainingStep
from llamatelemetry.semconv.attributes import AttributeValue
from llamatelemetry.semconv.gen_ai import ERROR_TYPE
from llamatelemetry.semconv.metrics import Instrument
from llamatelemetry.semconv.pipeline import STAGE_DURATION, STEP_DURATION, STEP_LEARNING_RATE, STEP_LOSS


class StageInstruments:
    """The instruments of one stage, under the attributes that all its figures have.

    Args:
        meter: Makes them.
        where: Names of the pipeline and the stage.
        context: The stage's span is in it, so that exemplars lead there.
    """

    def __init__(self, meter: Meter, where: Mapping[str, AttributeValue], context: Context) -> None:
        self._where = where
        self._context = context
        self._stage_duration = _histogram(meter, STAGE_DURATION)
        self._step_duration = _histogram(meter, STEP_DURATION)
        self._lock = threading.Lock()
        self._latest: TrainingStep | None = None
        self._loss = meter.create_gauge(STEP_LOSS.name, STEP_LOSS.unit, STEP_LOSS.brief)
        self._learning_rate = meter.create_gauge(
            STEP_LEARNING_RATE.name, STEP_LEARNING_RATE.unit, STEP_LEARNING_RATE.brief
        )

    def step(self, step: TrainingStep) -> None:
        """Records one step; of its loss and learning rate, the latest is told by :meth:`publish`."""
        if step.duration_s is not None:
            self._step_duration.record(step.duration_s, self._where, self._context)
        if step.loss is not None or step.learning_rate is not None:
            self._latest = step

    def publish(self) -> None:
        """Sets the gauges to the latest step: a few times a second is as good as each time, and costs less."""
        with self._lock:  # Or an earlier step could be set after a later one.
            step, self._latest = self._latest, None
            if step is not None and step.loss is not None:
                self._loss.set(step.loss, self._where, self._context)
            if step is not None and step.learning_rate is not None:
                self._learning_rate.set(step.learning_rate, self._where, self._context)

    def stage(self, duration_s: float, error_type: str | None) -> None:
        """Records the stage as a whole."""
        failed = {} if error_type is None else {ERROR_TYPE.name: error_type}
        self._stage_duration.record(duration_s, {**self._where, **failed}, self._context)


def _histogram(meter: Meter, row: Instrument) -> Histogram:
    return meter.create_histogram(row.name, row.unit, row.brief, explicit_bucket_boundaries_advisory=list(row.buckets))
