"""A server that does exactly what a test says, over a real socket; and what instrumentors are watched with."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry.llama.instrumentor import LibraryInstrumentor
from llamatelemetry.semconv.spans import PHASES
from llamatelemetry.testing.semconv import assert_valid_metrics, assert_valid_spans

# The session llama_cpp_python of noxfile.py has the current version, which takes minutes to compile.
collect_ignore = [] if importlib.util.find_spec("llama_cpp") else ["test_instrument_llama_cpp.py"]

Script = Callable[[socket.socket], None]


def _read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return b""
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@pytest.fixture
def read_request() -> Callable[[socket.socket], bytes]:
    """Reads one HTTP request, body included; empty if the client hung up."""
    return _read_request


@pytest.fixture
def scripted() -> Iterator[Callable[[Script], str]]:
    """Starts a server that runs the script on every connection; gives its URL."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(script: Script) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        script(connection)

        thread = threading.Thread(target=serve)
        threads.append(thread)
        thread.start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(10)


@pytest.fixture
def answering(scripted) -> Callable[..., str]:
    """Starts a server that answers every request with the same bytes, then hangs up."""

    def start(*pieces: bytes) -> str:
        def script(connection: socket.socket) -> None:
            if _read_request(connection):
                for piece in pieces:
                    connection.sendall(piece)

        return scripted(script)

    return start


class Traced:
    """An instrumentor on providers of its own. All that it emits is checked against the tables in the end."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self._instrumentors: list[LibraryInstrumentor] = []
        self._seen = 0

    def instrument(self, instrumentor: LibraryInstrumentor) -> None:
        """Until the test is over."""
        # Whichever distribution the library came from.
        instrumentor.instrument(tracer_provider=self.provider, meter_provider=self._meters, skip_dep_check=True)
        self._instrumentors.append(instrumentor)

    def spans(self) -> list[ReadableSpan]:
        """Inference spans that ended since this was last asked."""
        return [span for span in self._news() if "gen_ai.operation.name" in span.attributes]

    def told(self) -> Mapping[str, Any]:
        """Attributes of the one inference span that ended since."""
        [span] = self.spans()
        return span.attributes

    def phases(self) -> list[str]:
        """Names of the phases that ended since."""
        return [span.name for span in self._news() if span.name in PHASES]

    def stop(self) -> None:
        """Takes everything back, and checks what was emitted."""
        for instrumentor in self._instrumentors:
            assert instrumentor.flush()
            if instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.uninstrument()
        ours = [span for span in self._exporter.get_finished_spans() if span.instrumentation_scope.name != "app"]
        assert_valid_spans(ours, ["gen_ai", "llm"])
        metrics = self._reader.get_metrics_data()
        if metrics is not None:
            assert_valid_metrics(metrics)

    def _news(self) -> list[ReadableSpan]:
        for instrumentor in self._instrumentors:
            assert instrumentor.flush()
        spans = list(self._exporter.get_finished_spans())
        news, self._seen = spans[self._seen :], len(spans)
        return news


@pytest.fixture
def traced() -> Iterator[Traced]:
    """Providers for an instrumentor."""
    traced = Traced()
    yield traced
    traced.stop()
