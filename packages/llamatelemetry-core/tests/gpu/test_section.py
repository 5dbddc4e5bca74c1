"""Sections over a stub of NVML: what is read is what the test wrote."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import llamatelemetry
from llamatelemetry import gpu_section
from llamatelemetry.errors import InvalidValueError
from llamatelemetry.testing.semconv import assert_valid_spans

PERIOD_S = 0.05


class Spans:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()

    def start(self, **settings: object) -> None:
        llamatelemetry.init(
            exporters="none", span_processors=[SimpleSpanProcessor(self.exporter)], gpu_interval_s=PERIOD_S, **settings
        )

    def ended(self) -> dict[str, ReadableSpan]:
        assert llamatelemetry.flush()
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def spans() -> Iterator[Spans]:
    yield Spans()
    llamatelemetry.shutdown()


def test_a_section_ends_its_span_at_its_own_end_though_its_figures_come_later(t4x2, spans):
    spans.start()
    with gpu_section("train", {"step": 7}) as section:
        time.sleep(3 * PERIOD_S)
    left_ns = time.time_ns()
    use = section.use(5)
    span = spans.ended()["train"]
    assert span.end_time <= left_ns
    assert span.attributes["step"] == 7
    assert span.attributes["llamatelemetry.gpu.ids"] == tuple(each.device.uuid for each in use.devices)
    assert span.attributes["llamatelemetry.gpu.energy.idle"] == use.idle_j
    assert_valid_spans([span], ["gen_ai"])


def test_spans_inside_a_section_are_its_children_on_the_stub(t4x2, spans):
    spans.start()
    with gpu_section("outer"), gpu_section("inner"):
        trace.get_tracer("test").start_span("own").end()
    ended = spans.ended()
    assert ended["inner"].parent.span_id == ended["outer"].context.span_id
    assert ended["own"].parent.span_id == ended["inner"].context.span_id
    assert ended["outer"].parent is None


def test_a_section_that_is_entered_again_is_another_span_with_figures_of_its_own_on_the_stub(t4x2, spans):
    spans.start()
    section = gpu_section("again")
    uses = []
    for _ in range(2):
        with section:
            time.sleep(2 * PERIOD_S)
        uses.append(section.use(5))
    llamatelemetry.flush()
    for span, use in zip(spans.exporter.get_finished_spans(), uses, strict=True):
        assert span.end_time - span.start_time >= 2 * PERIOD_S * 1e9
        assert span.attributes["llamatelemetry.gpu.energy.idle"] == use.idle_j


def test_a_section_may_be_entered_inside_itself_on_the_stub(t4x2, spans):
    spans.start()
    section = gpu_section("deep")
    with section:
        with section:
            time.sleep(PERIOD_S)
        time.sleep(PERIOD_S)
    llamatelemetry.flush()
    inner, outer = sorted(spans.exporter.get_finished_spans(), key=lambda span: span.end_time)
    assert inner.parent.span_id == outer.context.span_id
    assert outer.end_time - outer.start_time >= 2 * PERIOD_S * 1e9


def test_an_exception_passes_and_is_on_the_span(t4x2, spans):
    spans.start()
    with pytest.raises(KeyError), gpu_section("broken"):
        raise KeyError("gone")
    span = spans.ended()["broken"]
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


def test_a_decorated_function_is_a_section_at_every_call(t4x2, spans):
    spans.start()

    @gpu_section("double")
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    assert [double(1), double(2)] == [2, 4]
    assert double.__doc__ == "Twice as much."
    llamatelemetry.flush()
    assert [span.name for span in spans.exporter.get_finished_spans()] == ["double", "double"]


def test_a_decorated_coroutine_is_a_section_until_it_returns(t4x2, spans):
    spans.start()

    @gpu_section("wait")
    async def wait() -> str:
        await asyncio.sleep(0.01)
        return "done"

    async def both() -> list[str]:
        return await asyncio.gather(wait(), wait())

    assert asyncio.run(both()) == ["done", "done"]
    llamatelemetry.flush()
    first, second = spans.exporter.get_finished_spans()
    assert first.end_time - first.start_time >= 10_000_000
    assert second.parent is None


def test_a_generator_is_no_section():
    with pytest.raises(InvalidValueError, match="numbers"):

        @gpu_section("generate")
        def numbers():
            yield 1


def test_a_section_that_is_open_at_shutdown_still_ends_where_it_ends(t4x2, spans):
    spans.start()
    with gpu_section("long"):
        span = trace.get_current_span()
        llamatelemetry.shutdown()
        shut_down_ns = time.time_ns()
    assert span.end_time >= shut_down_ns


def test_before_init_a_section_is_a_span_of_whoever_makes_spans():
    with gpu_section("early") as section:
        pass
    assert section.use() is None


def test_without_measuring_a_section_is_a_span_like_any_other(spans):
    spans.start(gpu=False)
    with gpu_section("plain") as section:
        pass
    assert section.use() is None
    assert not spans.ended()["plain"].attributes


def test_a_driver_that_hangs_in_the_stub_holds_no_section_past_shutdown(t4x2, spans):
    spans.start()
    time.sleep(2 * PERIOD_S)
    t4x2.slow("nvmlDeviceGetMemoryInfo", 3.0)
    time.sleep(2 * PERIOD_S)
    with gpu_section("hung"):
        pass
    begun = time.monotonic()
    llamatelemetry.shutdown()
    assert time.monotonic() - begun < 3.0
    assert [span.name for span in spans.exporter.get_finished_spans()] == ["hung"]
    t4x2.slow("nvmlDeviceGetMemoryInfo", 0)
