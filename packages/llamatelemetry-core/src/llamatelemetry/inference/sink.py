"""Where finished records go, and who else may look at them.

The engine knows this protocol and not OpenTelemetry. ``llamatelemetry.init()`` installs the
recorder; without it records are dropped and results still carry every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from llamatelemetry.inference.record import FinishedRecord, Opening

AttributeValue = str | bool | int | float | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
"""What a span attribute can hold."""


class RequestTrace(Protocol):
    """One request's place in a trace, from submission to the finished record."""

    @property
    def trace_id(self) -> str | None:
        """Trace id, 32 hex digits, or None."""
        ...

    @property
    def traceparent(self) -> str | None:
        """W3C trace context to send to the backend, or None."""
        ...

    def active(self) -> AbstractContextManager[object]:
        """Makes it this thread's current trace while the model is asked; enter and leave it in one thread.

        What is traced meanwhile is inside it, and whoever else would trace the same inference is told not to.
        """
        ...

    def finish(self, record: FinishedRecord) -> None:
        """Hands the finished record over; returns at once and never raises."""
        ...

    def finish_later(self, make: Callable[[], FinishedRecord]) -> None:
        """Hands over what makes the finished record, for whoever wants it to call, once, in a thread of its own."""
        ...


class RecordSink(Protocol):
    """Takes requests as they open. Called in the caller's thread; never raises."""

    def begin(self, opening: Opening) -> RequestTrace:
        """Opens the request's trace under the caller's current context."""
        ...


class SpanEnricher(Protocol):
    """Adds what it saw to a request's span: a GPU, a network, a process."""

    def on_start(self, opening: Opening) -> None:
        """Called in the caller's thread at submission: note the time, do nothing slow."""
        ...

    def on_finish(self, record: FinishedRecord) -> Mapping[str, AttributeValue]:
        """Called in the recorder's thread; returns attributes for the inference span."""
        ...


class _NoTrace:
    __slots__ = ()
    trace_id: str | None = None
    traceparent: str | None = None

    def active(self) -> AbstractContextManager[object]:
        return nullcontext()

    def finish(self, record: FinishedRecord) -> None:
        pass

    def finish_later(self, make: Callable[[], FinishedRecord]) -> None:
        pass


class _NoSink:
    __slots__ = ()

    def begin(self, opening: Opening) -> RequestTrace:
        return _NO_TRACE


_NO_TRACE = _NoTrace()
_NO_SINK = _NoSink()
_sink: RecordSink = _NO_SINK


def install_sink(sink: RecordSink | None) -> None:
    """Makes ``sink`` the process's sink; None drops records from now on."""
    global _sink  # noqa: PLW0603  a process has one sink, whoever asks
    _sink = _NO_SINK if sink is None else sink


def current_sink() -> RecordSink:
    """The sink that new requests are given to."""
    return _sink


def installed_sink() -> RecordSink | None:
    """The sink that was installed; None if there is none, and records are dropped."""
    return None if _sink is _NO_SINK else _sink
