"""The span of a server's start: its length is the cold start, its error why there was none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace

from llamatelemetry.errors import LlamatelemetryError
from llamatelemetry.llama.launch import HOST, LaunchOptions
from llamatelemetry.llama.runtime import Runtime
from llamatelemetry.semconv.facts import ServerStartFacts
from llamatelemetry.semconv.profiles import server_start_attributes
from llamatelemetry.semconv.spans import SERVER_START_SPAN


class StartSpan:
    """A server's start while it goes on."""

    def __init__(self, span: trace.Span, facts: ServerStartFacts) -> None:
        self._span = span
        self._facts = facts

    def ready(self, *, pid: int | None, port: int | None) -> None:
        """Notes where the server is to be found."""
        self._add(dataclasses.replace(self._facts, pid=pid, server_address=HOST, server_port=port))

    def failed(self, error: BaseException) -> None:
        """Notes why there is none."""
        kind = error.error_type if isinstance(error, LlamatelemetryError) else type(error).__name__
        self._add(dataclasses.replace(self._facts, error_type=kind))
        self._span.set_status(trace.StatusCode.ERROR, str(error))

    def _add(self, facts: ServerStartFacts) -> None:
        if self._span.is_recording():
            self._span.set_attributes(server_start_attributes(facts))


@contextmanager
def start_span(runtime: Runtime, options: LaunchOptions) -> Iterator[StartSpan]:
    """Wraps a server's start in a span of the caller's trace; goes nowhere if nobody set up tracing.

    Args:
        runtime: What is started.
        options: What it is told.
    """
    facts = ServerStartFacts(
        runtime="xllamacpp" if runtime.kind == "embedded" else "llama-server",
        runtime_version=runtime.version,
        model=options.alias,
        slots=options.slots,
        context_length=options.context_length,
        threads=options.threads,
    )
    tracer = trace.get_tracer("llamatelemetry.llama")
    # Not made current: nothing that runs meanwhile is caused by the start.
    span = tracer.start_span(SERVER_START_SPAN, attributes=server_start_attributes(facts))
    started = StartSpan(span, facts)
    try:
        yield started
    except BaseException as error:
        started.failed(error)
        raise
    finally:
        span.end()
