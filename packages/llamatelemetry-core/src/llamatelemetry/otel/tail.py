"""``keep_slow_and_errors``: a trace is kept if a span of it failed or it took long, and dropped otherwise.

The decision falls when no span of the trace is open in this process any more, not when its root
ends: an inference span is ended by the recorder's thread, which may be after the caller's own span.
A span that ends after the decision follows it.

A span may also end in the middle of all that: a generator that nobody reads any more ends its span where
the garbage collector finds it, which may be in any line, of ours too. So each start and end is one step,
taken whole before the next.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from llamatelemetry.forks import after_fork

MAX_TRACES: Final = 1024
"""Undecided traces held; past it the oldest is decided on what is known of it."""
MAX_SPANS: Final = 16384
"""Spans held over all undecided traces; past it likewise."""
MAX_DECISIONS: Final = 8192
"""Decisions remembered for spans that come late."""


@dataclass(slots=True)
class _Trace:
    open_spans: set[int] = field(default_factory=set)
    keep: bool = False
    spans: list[ReadableSpan] = field(default_factory=list)


class SlowAndErrorFilter(SpanProcessor):
    """Holds a trace's spans back until it is decided, then passes them on or drops them. Thread-safe.

    Args:
        behind: Processors that get the spans of traces that are kept.
        slow_s: Seconds from which a local root makes its trace slow.
    """

    def __init__(self, behind: Sequence[SpanProcessor], slow_s: float) -> None:
        self._behind = tuple(behind)
        self._slow_ns = slow_s * 1e9
        self._reset()
        after_fork(self._reset)

    @property
    def evicted(self) -> int:
        """Traces dropped undecided, for lack of room."""
        return self._evicted

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Counts the span as open."""
        self._in_turn(lambda: self._start(span))

    def on_end(self, span: ReadableSpan) -> None:
        """Holds the span, or decides its trace if it was the last one open."""
        self._in_turn(lambda: self._end(span))

    def shutdown(self) -> None:
        """Passes on what is undecided, because nobody can say that it is dull; then shuts down what is behind."""
        self.release()
        for processor in self._behind:
            processor.shutdown()

    def release(self) -> None:
        """Passes on what is undecided."""
        self._in_turn(self._give_up)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flushes what is behind; traces still open stay undecided."""
        flushed = [processor.force_flush(timeout_millis) for processor in self._behind]
        return all(flushed)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._steps: deque[Callable[[], list[ReadableSpan]]] = deque()
        self._stepping = False
        self._undecided: OrderedDict[int, _Trace] = OrderedDict()
        self._decisions: OrderedDict[int, bool] = OrderedDict()
        self._held = 0
        self._evicted = 0

    def _in_turn(self, step: Callable[[], list[ReadableSpan]]) -> None:
        """Takes a step after those before it, and passes on what it lets through."""
        self._steps.append(step)
        passed: list[ReadableSpan] = []
        with self._lock:
            if self._stepping:
                return  # In the middle of a step of this thread, which takes this one next.
            self._stepping = True
            try:
                while self._steps:
                    passed += self._steps.popleft()()
            finally:
                self._stepping = False
        self._pass_on(passed)

    def _start(self, span: Span) -> list[ReadableSpan]:
        context = span.get_span_context()
        trace_id = context.trace_id
        trace = self._undecided.get(trace_id)
        if trace is None:
            if trace_id in self._decisions and not _is_local_root(span):
                return []
            if self._decisions.get(trace_id) is False:
                del self._decisions[trace_id]  # Another request of the same trace has its own chance.
            trace = self._undecided[trace_id] = _Trace(keep=self._decisions.get(trace_id, False))
        trace.open_spans.add(context.span_id)
        return self._make_room()

    def _end(self, span: ReadableSpan) -> list[ReadableSpan]:
        context = span.get_span_context()
        if context is None:
            return []
        trace = self._undecided.get(context.trace_id)
        if trace is None:
            return [span] if self._decisions.get(context.trace_id) else []
        trace.open_spans.discard(context.span_id)
        trace.keep = trace.keep or self._is_worth_keeping(span)
        trace.spans.append(span)
        self._held += 1
        return self._make_room() if trace.open_spans else self._decide(context.trace_id)

    def _give_up(self) -> list[ReadableSpan]:
        for trace in self._undecided.values():
            trace.keep = True
        return [span for trace_id in list(self._undecided) for span in self._decide(trace_id)]

    def _is_worth_keeping(self, span: ReadableSpan) -> bool:
        if span.status.status_code is StatusCode.ERROR:
            return True
        if not _is_local_root(span) or span.start_time is None or span.end_time is None:
            return False
        return span.end_time - span.start_time >= self._slow_ns

    def _make_room(self) -> list[ReadableSpan]:
        passed: list[ReadableSpan] = []
        while len(self._undecided) > MAX_TRACES or self._held > MAX_SPANS:
            trace_id = next(iter(self._undecided))
            if not self._undecided[trace_id].keep:
                self._evicted += 1
            passed += self._decide(trace_id)
        return passed

    def _decide(self, trace_id: int) -> list[ReadableSpan]:
        trace = self._undecided.pop(trace_id)
        self._held -= len(trace.spans)
        self._decisions[trace_id] = trace.keep
        self._decisions.move_to_end(trace_id)
        while len(self._decisions) > MAX_DECISIONS:
            self._decisions.popitem(last=False)
        return trace.spans if trace.keep else []

    def _pass_on(self, spans: Sequence[ReadableSpan]) -> None:
        for span in spans:
            for processor in self._behind:
                processor.on_end(span)


def _is_local_root(span: ReadableSpan) -> bool:
    return span.parent is None or span.parent.is_remote
