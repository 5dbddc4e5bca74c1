from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, Status, StatusCode, TraceFlags

from llamatelemetry.otel import tail
from llamatelemetry.otel.tail import SlowAndErrorFilter

SECOND = 1_000_000_000


class Filtered:
    """A tracer behind a filter with a threshold of one second, and what got through."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.filter = SlowAndErrorFilter([SimpleSpanProcessor(self.exporter)], slow_s=1.0)
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.filter)
        self.tracer = self.provider.get_tracer("t")

    def start(self, name: str, parent: Span | None = None) -> Span:
        context = None if parent is None else trace.set_span_in_context(parent)
        return self.tracer.start_span(name, context, start_time=0)

    @property
    def kept(self) -> list[str]:
        return sorted(span.name for span in self.exporter.get_finished_spans())


def remote(trace_id: int) -> Span:
    return NonRecordingSpan(SpanContext(trace_id, 1, is_remote=True, trace_flags=TraceFlags(1)))


def fail(span: Span) -> None:
    span.set_status(Status(StatusCode.ERROR))


def test_a_fast_trace_without_error_is_dropped() -> None:
    it = Filtered()
    root = it.start("root")
    it.start("child", root).end(SECOND // 10)
    root.end(SECOND // 2)
    assert it.kept == []


def test_a_slow_trace_is_kept_whole() -> None:
    it = Filtered()
    root = it.start("root")
    it.start("child", root).end(10)
    assert it.kept == []
    root.end(SECOND)
    assert it.kept == ["child", "root"]


def test_a_slow_child_does_not_make_its_trace_slow() -> None:
    it = Filtered()
    root = it.start("root")
    it.start("child", root).end(5 * SECOND)
    root.end(10)
    assert it.kept == []


def test_a_trace_with_an_error_anywhere_is_kept_whole() -> None:
    it = Filtered()
    root = it.start("root")
    child = it.start("child", root)
    fail(child)
    child.end(10)
    root.end(20)
    assert it.kept == ["child", "root"]


def test_a_span_ended_by_another_thread_after_its_root_still_counts() -> None:
    it = Filtered()
    root = it.start("root")
    inference = it.start("inference", root)
    root.end(10)
    fail(inference)
    recorder = threading.Thread(target=inference.end, args=(20,))
    recorder.start()
    recorder.join()
    assert it.kept == ["inference", "root"]


@pytest.mark.parametrize(("duration", "kept"), [(SECOND, ["late", "root"]), (1, [])])
def test_a_late_span_follows_the_decision(duration: int, kept: list[str]) -> None:
    it = Filtered()
    root = it.start("root")
    root.end(duration)
    it.start("late", root).end(duration)
    assert it.kept == kept


def test_a_second_request_of_a_dropped_trace_has_its_own_chance() -> None:
    it = Filtered()
    it.start("fast", remote(7)).end(10)
    it.start("slow", remote(7)).end(2 * SECOND)
    assert it.kept == ["slow"]


def test_a_second_request_of_a_kept_trace_is_kept() -> None:
    it = Filtered()
    it.start("slow", remote(7)).end(2 * SECOND)
    it.start("fast", remote(7)).end(10)
    assert it.kept == ["fast", "slow"]


def test_a_span_that_ends_in_the_middle_of_a_step_has_its_turn_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Filtered()
    abandoned = it.start("abandoned")

    class Collecting(tail._Trace):
        """Where garbage is found, a generator that nobody reads any more ends its span; that may be anywhere."""

        def __init__(self, **state: bool) -> None:
            super().__init__(**state)
            abandoned.end(2 * SECOND)

    monkeypatch.setattr(tail, "_Trace", Collecting)
    thread = threading.Thread(target=lambda: it.start("interrupted").end(3 * SECOND), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for itself"
    assert it.kept == ["abandoned", "interrupted"]


def test_past_the_number_of_traces_the_oldest_is_given_up_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MAX_TRACES", 2)
    it = Filtered()
    roots = [it.start(f"root {n}") for n in range(3)]
    assert it.filter.evicted == 1
    for root in roots:
        root.end(2 * SECOND)
    assert it.kept == ["root 1", "root 2"]


def test_a_trace_given_up_after_an_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MAX_SPANS", 1)
    it = Filtered()
    root = it.start("root")
    child = it.start("child", root)
    fail(child)
    child.end(1)
    it.start("more", root).end(1)
    assert it.kept == ["child", "more"]
    assert it.filter.evicted == 0


def test_shutdown_passes_on_what_is_undecided() -> None:
    it = Filtered()
    root = it.start("root")
    it.start("child", root).end(1)
    it.provider.shutdown()
    assert it.kept == ["child"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_export_the_parents_spans() -> None:
    it = Filtered()
    root = it.start("root")
    it.start("child", root).end(1)
    child = os.fork()
    if child == 0:
        it.filter.release()
        os._exit(len(it.kept))
    assert os.waitpid(child, 0)[1] == 0
    root.end(SECOND)
    assert it.kept == ["child", "root"]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["start", "child", "fail", "slow", "end"])), max_size=60))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_memory_is_returned_and_no_span_is_passed_twice(steps: list[tuple[int, str]]) -> None:
    it = Filtered()
    open_spans: dict[int, list[Span]] = {}
    for key, step in steps:
        stack = open_spans.setdefault(key, [])
        if step in {"start", "child"}:
            stack.append(it.start(f"{key}", stack[-1] if stack else None))
        elif stack:
            span = stack.pop()
            if step == "fail":
                fail(span)
            span.end(2 * SECOND if step == "slow" else 10)
    for stack in open_spans.values():
        for span in reversed(stack):
            span.end(10)
    assert it.filter._held == 0
    assert not it.filter._undecided
    exported = [span.get_span_context().span_id for span in it.exporter.get_finished_spans()]
    assert len(exported) == len(set(exported))
