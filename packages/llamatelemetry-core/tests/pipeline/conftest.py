"""Stages that do little, and what a run of them leaves in OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llamatelemetry
from llamatelemetry.pipeline import Port, StageContext
from llamatelemetry.testing.semconv import assert_valid_spans


class Spans:
    """Every span that ended, all of them as the tables say."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()

    def start(self, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()  # Telemetry that was shut down took the one before with it.
        llamatelemetry.init(exporters="none", span_processors=[SimpleSpanProcessor(self.exporter)], **settings)

    def ended(self) -> list[ReadableSpan]:
        assert llamatelemetry.flush()
        ended = list(self.exporter.get_finished_spans())
        assert_valid_spans(ended, ["gen_ai"])
        return ended

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.ended() if span.name == name]
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Telemetry that is kept in memory."""
    spans = Spans()
    spans.start(gpu=False)
    yield spans
    llamatelemetry.shutdown()


class Join:
    """Writes what it is given, one after another, behind a word; counts how often it was run."""

    version = "1"
    tools: Mapping[str, str] = {}

    def __init__(
        self,
        word: str = "",
        *,
        name: str = "join",
        inputs: tuple[Port, ...] = (),
        outputs: tuple[Port, ...] = (Port(name="text", kind="text"),),
        before: Callable[[StageContext], object] | None = None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self.parameters: Mapping[str, Any] = {"word": word}
        self.runs = 0
        self._before = before

    def run(self, context: StageContext) -> Mapping[str, Path]:
        self.runs += 1
        given = [context.path(port.name).read_text() for port in self.inputs if port.name in context.inputs]
        made = {}
        for port in self.outputs:
            made[port.name] = context.folder / f"{port.name}.txt"
            made[port.name].write_text(" ".join([*given, str(self.parameters["word"]), port.name]))
        if self._before is not None:
            self._before(context)
        return made


@pytest.fixture
def join() -> type[Join]:
    """The class of stage above."""
    return Join
