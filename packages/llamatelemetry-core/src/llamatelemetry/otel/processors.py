"""Thin adapters: what the SDK hands out, into a courier's queue."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from llamatelemetry.otel.batch import Courier, Sender, flush_all

SPAN_DELAY_S: Final = 5.0
"""OTEL_BSP_SCHEDULE_DELAY's default in the OpenTelemetry specification."""
LOG_DELAY_S: Final = 1.0
"""OTEL_BLRP_SCHEDULE_DELAY's default in the OpenTelemetry specification."""


class RecordFirst(SpanProcessor):
    """Stands before all others: whoever flushes or ends the provider has the spans of requests that have ended, too.

    Their spans end in the recorder's thread, after the application has its answer.

    Args:
        record: Records what has ended, within as many seconds; False if time ran out.
        shutdown_timeout_s: Most seconds that :meth:`shutdown` takes.
    """

    def __init__(self, record: Callable[[float], bool], shutdown_timeout_s: float) -> None:
        self._record = record
        self._shutdown_timeout_s = shutdown_timeout_s

    def shutdown(self) -> None:
        """Records what has ended, within the timeout."""
        self._record(self._shutdown_timeout_s)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Records what has ended; says whether that was in time."""
        return self._record(timeout_millis / 1000)


class CourierSpanProcessor(SpanProcessor):
    """Queues each sampled span that ends.

    Args:
        courier: Takes the spans.
        shutdown_timeout_s: Most seconds that :meth:`shutdown` takes.
    """

    def __init__(self, courier: Courier[ReadableSpan], shutdown_timeout_s: float) -> None:
        self.courier = courier
        self._shutdown_timeout_s = shutdown_timeout_s

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing to do yet."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queues the span."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled:
            self.courier.offer(span)

    def shutdown(self) -> None:
        """Refuses further items and waits, within the timeout, for those queued to be sent."""
        self.courier.begin_close()
        self.courier.join(time.monotonic() + self._shutdown_timeout_s)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Sends what is queued; says whether all of it arrived in time."""
        return flush_all((self.courier,), time.monotonic() + timeout_millis / 1000)


class CourierLogProcessor(LogRecordProcessor):
    """Queues each log record.

    Args:
        courier: Takes the records.
        shutdown_timeout_s: Most seconds that :meth:`shutdown` takes.
    """

    def __init__(self, courier: Courier[ReadableLogRecord], shutdown_timeout_s: float) -> None:
        self.courier = courier
        self._shutdown_timeout_s = shutdown_timeout_s

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queues the record, without the context it was emitted in: that can hold anything."""
        record = copy.copy(log_record.log_record)
        record.context = Context()
        self.courier.offer(
            ReadableLogRecord(
                log_record=record,
                resource=log_record.resource or Resource.get_empty(),
                instrumentation_scope=log_record.instrumentation_scope,
                limits=log_record.limits,
            )
        )

    def shutdown(self) -> None:
        """Refuses further items and waits, within the timeout, for those queued to be sent."""
        self.courier.begin_close()
        self.courier.join(time.monotonic() + self._shutdown_timeout_s)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Sends what is queued; says whether all of it arrived in time."""
        return flush_all((self.courier,), time.monotonic() + timeout_millis / 1000)


class CourierMetricReader(MetricReader):
    """Collects every ``interval_s`` in its courier's thread and exports from there.

    Args:
        exporter: Where the metrics go, for a reader.
        sender: As for :class:`~llamatelemetry.otel.batch.Courier`.
        renew: As for :class:`~llamatelemetry.otel.batch.Courier`.
        interval_s: Seconds between two exports.
        shutdown_timeout_s: Most seconds that :meth:`shutdown` takes when nobody says otherwise.
        preferences: ``preferred_temporality`` and ``preferred_aggregation``, as ``MetricReader`` takes them.
    """

    def __init__(
        self,
        *,
        exporter: str,
        sender: Sender[MetricsData],
        renew: Callable[[], Sender[MetricsData]],
        interval_s: float,
        shutdown_timeout_s: float,
        preferences: dict[str, Any],
    ) -> None:
        super().__init__(**preferences)
        self._shutdown_timeout_s = shutdown_timeout_s
        self.courier: Courier[MetricsData] = Courier(
            signal="metrics",
            exporter=exporter,
            sender=sender,
            renew=renew,
            delay_s=interval_s,
            collect=self.collect,
        )

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        if metrics_data is not None:
            self.courier.offer(metrics_data)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Collects and exports once more, within the shorter of the two timeouts."""
        self.courier.begin_close()
        self.courier.join(time.monotonic() + min(timeout_millis / 1000, self._shutdown_timeout_s))

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Collects and exports; says whether it arrived in time."""
        return flush_all((self.courier,), time.monotonic() + timeout_millis / 1000)
