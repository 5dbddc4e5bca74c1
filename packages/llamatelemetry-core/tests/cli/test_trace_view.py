"""The tree: every span once, at its place, in any width."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import set_span_in_context
from rich.console import Console

from llamatelemetry.cli.trace_view import TraceView

MS = 1_000_000


@dataclass
class Id:
    span_id: int


@dataclass
class Span:
    name: str
    context: Id
    parent: Id | None
    start_time: int | None
    end_time: int | None
    attributes: dict[str, Any] = field(default_factory=dict)


def rendered(spans: list[Any], width: int = 60, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(TraceView(spans))
    file.flush()
    text = file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined] # It is the BytesIO above.
    return [line.rstrip() for line in text.splitlines()]


def phases() -> list[Span]:
    root = Id(1)
    return [
        Span("decode", Id(4), root, 100 * MS, 400 * MS),
        Span("chat model", root, None, 0, 400 * MS),
        Span("queue", Id(2), root, 0, 50_000),
        Span("prefill", Id(3), root, 50_000, 100 * MS),
    ]


def test_phases_stand_under_their_span_in_order_of_time_on_one_scale() -> None:
    assert rendered(phases(), 50) == [
        "chat model    400 ms  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
        "├── queue    0.05 ms  ╸",
        "├── prefill   100 ms  ━━━━━━━",
        "└── decode    300 ms         ━━━━━━━━━━━━━━━━━━━━━",
    ]


def test_a_phase_that_took_no_time_stands_before_the_one_that_starts_where_it_ends() -> None:
    root = Id(1)
    spans = [
        Span("chat model", root, None, 0, MS),
        Span("prefill", Id(3), root, 0, MS),
        Span("queue", Id(2), root, 0, 0),
    ]
    assert [line.split()[1] for line in rendered(spans)[1:]] == ["queue", "prefill"]


def test_a_terminal_that_knows_ascii_only_gets_ascii() -> None:
    lines = rendered(phases(), 50, "ascii")
    assert lines[0] == "chat model    400 ms  ============================"
    assert lines[-1] == "`-- decode    300 ms         ====================="


def test_a_failed_span_says_its_error() -> None:
    root, failed = phases()[1], Span("decode", Id(4), Id(1), 0, MS, {"error.type": "StreamInterruptedError"})
    assert "decode [StreamInterruptedError]" in rendered([root, failed], 100)[1]


def test_names_are_shortened_before_bars_vanish() -> None:
    root = Span("chat " + "m" * 80, Id(1), None, 0, MS)
    (line,) = rendered([root], 40)
    assert line.endswith("…  1.00 ms  ━━━━━━━━━━")
    assert len(line) == 40


def test_spans_of_the_sdk_are_drawn_as_they_are() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    root = tracer.start_span("chat model", start_time=0)
    child = tracer.start_span("decode", context=set_span_in_context(root), start_time=5 * MS)
    child.end(10 * MS)
    root.end(10 * MS)
    assert rendered(list(exporter.get_finished_spans()), 36) == [
        "chat model  10.0 ms  ━━━━━━━━━━━━━━━",
        "└── decode  5.00 ms         ╺━━━━━━━",
    ]


def test_nothing_is_drawn_of_nothing() -> None:
    assert rendered([]) == []


@st.composite
def traces(draw: st.DrawFn) -> list[Span]:
    times = st.none() | st.integers(0, 10**12)
    spans = []
    for number in range(draw(st.integers(1, 12))):
        parent = draw(st.none() | st.integers(0, number - 1)) if number else None
        spans.append(
            Span(
                f"n{number}.",
                Id(number),
                None if parent is None else Id(parent),
                draw(times),
                draw(times),
            )
        )
    return draw(st.permutations(spans))


@given(spans=traces(), width=st.integers(60, 120))
def test_every_span_is_drawn_once_and_no_line_is_too_long(spans: list[Span], width: int) -> None:
    lines = rendered(spans, width)
    assert len(lines) == len(spans)
    for span in spans:
        assert sum(span.name in line for line in lines) == 1
    assert max(map(len, lines)) <= width


@given(spans=traces(), width=st.integers(1, 30))
def test_no_width_is_too_small_to_draw(spans: list[Span], width: int) -> None:
    assert rendered(spans, width)
