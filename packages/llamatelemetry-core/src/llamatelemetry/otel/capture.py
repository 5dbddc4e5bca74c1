"""Keeps finished spans in memory, for a command line or a notebook that wants to show them."""

from __future__ import annotations

from collections import deque

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor


class SpanCapture(SpanProcessor):
    """A span processor that keeps the last spans that ended.

    Args:
        limit: Spans kept; the oldest go first.
    """

    def __init__(self, limit: int = 1000) -> None:
        self._spans: deque[ReadableSpan] = deque(maxlen=limit)

    def on_end(self, span: ReadableSpan) -> None:
        """Keeps it."""
        self._spans.append(span)

    def trace(self, trace_id: str) -> list[ReadableSpan]:
        """The kept spans of one trace, in the order in which they ended.

        Args:
            trace_id: 32 hex digits, as in ``InferenceResult.trace_id``.
        """
        wanted = int(trace_id, 16)
        return [span for span in list(self._spans) if span.context is not None and span.context.trace_id == wanted]
