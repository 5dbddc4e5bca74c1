"""The three providers: ours, or those that somebody else has set already.

A process has one global provider per signal. Where there is none yet, a standing one is set, once,
and led to ours; where another one is set, it is adopted: used as it is, and never shut down by us.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import LoggerProvider, NoOpLoggerProvider

# Private, because the API offers no way to ask whether a meter or logger provider has been set.
from opentelemetry._logs._internal import ProxyLoggerProvider
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, TracerProvider

from llamatelemetry.otel.exporters import Exporters
from llamatelemetry.otel.ids import OwnIdGenerator
from llamatelemetry.otel.meter_provider import OwnMeterProvider
from llamatelemetry.otel.standing import StandingLoggerProvider, StandingTracerProvider
from llamatelemetry.otel.standing_metrics import StandingMeterProvider

_logger = logging.getLogger(__name__)

_standing_tracer: Final = StandingTracerProvider()
_standing_meter: Final = StandingMeterProvider()
_standing_logger: Final = StandingLoggerProvider()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """Providers that somebody else set; None where the place is ours.

    Attributes:
        tracer_provider: For spans.
        meter_provider: For metrics.
        logger_provider: For log records.
    """

    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None
    logger_provider: LoggerProvider | None = None

    def all(self) -> list[Any]:
        """Those that there are."""
        return [p for p in (self.tracer_provider, self.meter_provider, self.logger_provider) if p is not None]


def find_adopted() -> Adopted:
    """Looks for global providers that are not ours, and says at INFO that they will be used."""
    tracer, meter, logger = trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()
    adopted = Adopted(
        tracer_provider=None if isinstance(tracer, ProxyTracerProvider | StandingTracerProvider) else tracer,
        meter_provider=None if isinstance(meter, _ProxyMeterProvider | StandingMeterProvider) else meter,
        logger_provider=None if isinstance(logger, ProxyLoggerProvider | StandingLoggerProvider) else logger,
    )
    for provider in adopted.all():
        kind = type(provider)
        _logger.info(
            "using the %s.%s that is already set: exporters and sampler of that signal are its own",
            kind.__module__,
            kind.__qualname__,
        )
    return adopted


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """What spans, metrics and log records are made from: ours, or adopted.

    Attributes:
        tracer_provider: For spans.
        meter_provider: For metrics.
        logger_provider: For log records.
        adopted: Which of them are not ours.
    """

    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    logger_provider: LoggerProvider
    adopted: Adopted

    def own(self) -> list[Any]:
        """Those that are ours to shut down."""
        adopted = self.adopted.all()
        return [p for p in (self.tracer_provider, self.meter_provider, self.logger_provider) if p not in adopted]


def build_providers(
    exporters: Exporters,
    span_processors: Sequence[SpanProcessor],
    sampler: Sampler,
    resource: Resource,
    adopted: Adopted,
) -> Providers:
    """Makes what is not adopted. Nothing is registered globally or to run at exit.

    Args:
        exporters: Their readers and log processors are registered.
        span_processors: Are registered, in this order.
        sampler: Decides when a span starts.
        resource: Of all three.
        adopted: What is there already.
    """
    tracer_provider = adopted.tracer_provider
    if tracer_provider is None:
        tracer_provider = sdk_trace.TracerProvider(
            sampler=sampler, resource=resource, shutdown_on_exit=False, id_generator=OwnIdGenerator()
        )
        for span_processor in span_processors:
            tracer_provider.add_span_processor(span_processor)
    meter_provider = adopted.meter_provider
    if meter_provider is None:
        meter_provider = OwnMeterProvider(exporters.metric_readers, resource, shutdown_on_exit=False)
    logger_provider = adopted.logger_provider
    if logger_provider is None:
        logger_provider = sdk_logs.LoggerProvider(resource, shutdown_on_exit=False)
        for log_processor in exporters.log_processors:
            logger_provider.add_log_record_processor(log_processor)
    return Providers(
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        logger_provider=logger_provider,
        adopted=adopted,
    )


def make_global(providers: Providers) -> None:
    """Leads instrumented code to the providers that are ours."""
    if providers.adopted.tracer_provider is None:
        _standing_tracer.lead_to(providers.tracer_provider)
        if trace.get_tracer_provider() is not _standing_tracer:
            trace.set_tracer_provider(_standing_tracer)
    if providers.adopted.meter_provider is None:
        _standing_meter.lead_to(providers.meter_provider)
        if metrics.get_meter_provider() is not _standing_meter:
            metrics.set_meter_provider(_standing_meter)
    if providers.adopted.logger_provider is None:
        _standing_logger.lead_to(providers.logger_provider)
        if _logs.get_logger_provider() is not _standing_logger:
            _logs.set_logger_provider(_standing_logger)


def withdraw() -> None:
    """Leads instrumented code to no-ops, until :func:`make_global` is called again."""
    _standing_tracer.lead_to(NoOpTracerProvider())
    _standing_meter.lead_to(NoOpMeterProvider())
    _standing_logger.lead_to(NoOpLoggerProvider())
