"""Ids of spans and the random numbers of the application leave each other alone."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llamatelemetry
from llamatelemetry.otel.ids import OwnIdGenerator
from llamatelemetry.pipeline import PipelineTracer


@pytest.fixture
def ended() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    llamatelemetry.init(exporters="none", span_processors=[SimpleSpanProcessor(exporter)], gpu=False)
    yield exporter
    llamatelemetry.shutdown()


def test_two_trainings_with_the_same_seed_in_one_trace_have_spans_of_different_ids(ended: InMemorySpanExporter) -> None:
    with PipelineTracer("road") as tracer:
        for _ in range(2):
            random.seed(7)
            for name in ("finetune", "merge_lora", "export_gguf"):
                with tracer.stage(name):
                    pass

    spans = ended.get_finished_spans()
    assert len({span.context.span_id for span in spans}) == len(spans) == 7


def test_traces_that_begin_after_the_same_seed_are_two() -> None:
    llamatelemetry.init(exporters="none", gpu=False)
    try:
        traces = set()
        for _ in range(2):
            random.seed(7)
            with trace.get_tracer("test").start_as_current_span("asks") as span:
                traces.add(span.get_span_context().trace_id)
    finally:
        llamatelemetry.shutdown()
    assert len(traces) == 2


def test_what_is_traced_takes_no_random_number_from_the_application(ended: InMemorySpanExporter) -> None:
    random.seed(7)
    expected = [random.random() for _ in range(3)]
    random.seed(7)
    found = []
    with PipelineTracer("road") as tracer, tracer.stage("finetune") as stage:
        for number in range(3):
            found.append(random.random())
            stage.step(loss=1 / (number + 1))
    assert found == expected
    assert ended.get_finished_spans()


def test_a_forked_child_has_ids_of_its_own() -> None:
    generator = OwnIdGenerator()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"%d" % generator.generate_trace_id())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        assert int(said.read()) != generator.generate_trace_id()


def test_ids_are_of_the_width_that_w3c_gives_them() -> None:
    generator = OwnIdGenerator()
    assert all(0 < generator.generate_span_id() < 2**64 for _ in range(100))
    assert max(generator.generate_trace_id() for _ in range(100)) > 2**64
    assert generator.is_trace_id_random()
