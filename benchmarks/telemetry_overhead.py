"""CPU time that telemetry costs a request and a token, on the echo backend.

Run: python benchmarks/telemetry_overhead.py [--json]

"Caller thread" is what the application's own thread spends: starting the span and handing the
record over. "All threads" includes the recorder's, and is compared with the same engine and the
same requests without telemetry, in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from report import Row, report

from llamatelemetry import InferenceEngine, InferenceRequest
from llamatelemetry.backends.echo import EchoBackend
from llamatelemetry.backends.protocol import StreamEnd, Usage
from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.config import Settings
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.record import FinishedRecord
from llamatelemetry.inference.sink import install_sink
from llamatelemetry.otel.recorder import Recorder
from llamatelemetry.otel.redaction import redactor_for

REQUESTS = 3000
TOKENS = 64
LONG = 20_000
REPEATS = 3
REQUEST = InferenceRequest(messages=[{"role": "user", "content": "word " * TOKENS}], max_tokens=TOKENS)


def recorder_with(sampler: Sampler) -> Recorder:
    """A recorder whose spans and metrics go nowhere."""
    settings = Settings()
    return Recorder(
        tracer=TracerProvider(sampler=sampler, shutdown_on_exit=False).get_tracer("bench"),
        meter=MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False).get_meter("bench"),
        logger=LoggerProvider(shutdown_on_exit=False).get_logger("bench"),
        settings=settings,
        redactor=redactor_for(settings),
        max_waiting=REQUESTS + 1,
    )


def finished_record() -> FinishedRecord:
    """The record of a request that ended well."""
    info = EchoBackend().open()
    recorder = EventRecorder(REQUEST, info, streaming=True, queue_depth=0, clock=SYSTEM_CLOCK)
    recorder.dispatched()
    for _ in range(TOKENS):
        recorder.token()
    usage = Usage(input_tokens=TOKENS, output_tokens=TOKENS, cached_tokens=0)
    return recorder.finish(StreamEnd(finish_reason="stop", usage=usage), text="word " * TOKENS)


def least(measure: Callable[[], float]) -> float:
    """The least of several runs: noise on a shared machine only ever adds."""
    return min(measure() for _ in range(REPEATS))


def caller_us(sampler: Sampler) -> float:
    """Microseconds of the calling thread's CPU per request."""
    record = finished_record()

    def measure() -> float:
        recorder = recorder_with(sampler)
        begin = recorder.begin
        start = time.thread_time()
        for _ in range(REQUESTS):
            begin(record.opening).finish(record)
        spent = time.thread_time() - start
        recorder.flush(60)
        recorder.shutdown(5)
        return spent / REQUESTS * 1e6

    return least(measure)


def all_threads_us(sampler: Sampler | None) -> float:
    """Microseconds of the process's CPU per request through the engine; None is without telemetry."""

    def measure() -> float:
        recorder = None if sampler is None else recorder_with(sampler)
        install_sink(recorder)
        with InferenceEngine(EchoBackend(slots=1)) as engine:
            engine.generate(REQUEST)
            start = time.process_time()
            for _ in range(REQUESTS):
                engine.generate(REQUEST)
            if recorder is not None:
                recorder.flush(60)
            spent = time.process_time() - start
        install_sink(None)
        if recorder is not None:
            recorder.shutdown(5)
        return spent / REQUESTS * 1e6

    return least(measure)


def timestamp_us() -> float:
    """Microseconds that keeping one token's timestamp takes."""

    def measure() -> float:
        recorder = EventRecorder(REQUEST, EchoBackend().open(), streaming=True, queue_depth=0, clock=SYSTEM_CLOCK)
        token = recorder.token
        start = time.thread_time()
        for _ in range(LONG):
            token()
        return (time.thread_time() - start) / LONG * 1e6

    return least(measure)


def engine_us(*, stream: bool) -> float:
    """Microseconds of the process's CPU per token through the engine."""
    request = InferenceRequest(prompt="word " * LONG)

    def measure() -> float:
        with InferenceEngine(EchoBackend(slots=1)) as engine:
            start = time.process_time()
            if stream:
                for _ in engine.stream(request):
                    pass
            else:
                engine.generate(request)
            return (time.process_time() - start) / LONG * 1e6

    return least(measure)


def backend_us() -> float:
    """Microseconds per token of the echo backend alone, without an engine."""
    from llamatelemetry.backends.protocol import Placement

    request = InferenceRequest(prompt="word " * LONG)

    def measure() -> float:
        backend = EchoBackend()
        start = time.process_time()
        for _ in backend.stream(request, Placement()):
            pass
        return (time.process_time() - start) / LONG * 1e6

    return least(measure)


def main() -> None:
    """Measures and prints."""
    bare, alone = all_threads_us(None), backend_us()
    report(
        "Telemetry overhead on echo",
        [
            Row(name="caller thread, per request, sampled", value=caller_us(ALWAYS_ON), unit="us CPU", budget="<= 100"),
            Row(
                name="caller thread, per request, not recording",
                value=caller_us(ALWAYS_OFF),
                unit="us CPU",
                budget="<= 10",
            ),
            Row(
                name="all threads, per request, sampled", value=all_threads_us(ALWAYS_ON), unit="us CPU", baseline=bare
            ),
            Row(
                name="all threads, per request, not recording",
                value=all_threads_us(ALWAYS_OFF),
                unit="us CPU",
                baseline=bare,
            ),
            Row(name="timestamp, per token", value=timestamp_us(), unit="us CPU", budget="<= 0.5"),
            Row(
                name="engine.generate, per token",
                value=engine_us(stream=False),
                unit="us CPU",
                baseline=alone,
                budget="<= 15",
            ),
            Row(
                name="engine.stream, per token",
                value=engine_us(stream=True),
                unit="us CPU",
                baseline=alone,
                budget="<= 15",
            ),
        ],
    )


if __name__ == "__main__":
    main()
