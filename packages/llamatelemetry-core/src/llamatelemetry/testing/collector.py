"""Real receivers for tests: an OTLP/HTTP sink that decodes what it gets, and the rotel collector.

The sink is a small server in this process whose messages can be looked at field by field. Rotel is
a real collector from the package index, run as a child process; it speaks gRPC too, and can pass
what it received on to a sink, which proves that it understood it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from llamatelemetry.errors import MissingDependencyError
from llamatelemetry.testing.emitted import EmittedEvent, EmittedLink, EmittedSpan

_START_S: Final = 30.0
_GZIP: Final = b"\x1f\x8b"
"""First bytes of gzip data, https://datatracker.ietf.org/doc/html/rfc1952#section-2.3.1."""
_KINDS: Final[dict[str, tuple[Any, Any]]] = {
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
    "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse),
    "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse),
}


class OtlpSink:
    """An OTLP/HTTP receiver in this process; a context manager. Takes protobuf only, gzipped or not.

    Args:
        statuses: HTTP statuses of the first answers, in order; 200 from then on.

    Attributes:
        requests: Decoded export requests that were answered 200, in order of arrival.
        headers: Headers of each request, refused ones included.
    """

    def __init__(self, *statuses: int) -> None:
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self._statuses = list(statuses)
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[Span]:
        """All spans received, in order of arrival."""
        return [
            s
            for r in self._of(ExportTraceServiceRequest)
            for g in r.resource_spans
            for c in g.scope_spans
            for s in c.spans
        ]

    @property
    def metrics(self) -> list[Metric]:
        """All metrics received, in order of arrival."""
        return [
            m
            for r in self._of(ExportMetricsServiceRequest)
            for g in r.resource_metrics
            for c in g.scope_metrics
            for m in c.metrics
        ]

    @property
    def log_records(self) -> list[LogRecord]:
        """All log records received, in order of arrival."""
        return [
            x
            for r in self._of(ExportLogsServiceRequest)
            for g in r.resource_logs
            for c in g.scope_logs
            for x in c.log_records
        ]

    def wait_for(self, condition: Callable[[Self], object], timeout_s: float = 10.0) -> bool:
        """Waits until ``condition(self)`` holds; False if it does not in time."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: condition(self), timeout_s))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _of(self, kind: type[Any]) -> list[Any]:
        return [request for request in self.requests if isinstance(request, kind)]

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        request_type, response_type = _KINDS.get(path, (None, None))
        with self._changed:
            self.headers.append(headers)
            status = self._statuses.pop(0) if self._statuses else 200
            if request_type is None:
                status = 404
            elif headers.get("content-type") != "application/x-protobuf":
                status = 415
            if status == 200:
                # By its first bytes: rotel says gzip of what it did not compress as well.
                message = gzip.decompress(body) if body.startswith(_GZIP) else body
                self.requests.append(request_type.FromString(message))
            self._changed.notify_all()
        return status, response_type().SerializeToString() if status == 200 else b""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, answer = take(self.path, headers, body)
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Keeps stderr for the test."""

        return Handler


def plain(attributes: Any) -> dict[str, Any]:
    """Protobuf attributes as a dict of Python values."""
    return {item.key: _plain(item.value) for item in attributes}


def span_from_otlp(span: Span) -> EmittedSpan:
    """A span that was received, for the checks of :mod:`llamatelemetry.testing.semconv`."""
    return EmittedSpan(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=plain(span.attributes),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        events=tuple(
            EmittedEvent(name=event.name, time_ns=event.time_unix_nano, attributes=plain(event.attributes))
            for event in span.events
        ),
        links=tuple(
            EmittedLink(trace_id=link.trace_id.hex(), span_id=link.span_id.hex(), attributes=plain(link.attributes))
            for link in span.links
        ),
    )


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_plain(item) for item in value.array_value.values)
    if kind == "kvlist_value":
        return plain(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)


class Rotel:
    """A running rotel collector. Made by :func:`running_rotel`.

    Attributes:
        endpoint: Base URL for the protocol that was asked for.
    """

    def __init__(self, endpoint: str, log: Path) -> None:
        self.endpoint = endpoint
        self._log = log

    @property
    def text(self) -> str:
        """What it received, as it prints it: every resource, span, metric and log record with its fields."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, *texts: str, timeout_s: float = 15.0) -> str:
        """Waits until each of ``texts`` was printed.

        Returns:
            Everything printed so far.

        Raises:
            TimeoutError: One was not; the message holds what was.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            printed = self.text
            missing = [text for text in texts if text not in printed]
            if not missing:
                return printed
            if time.monotonic() > deadline:
                raise TimeoutError(f"rotel did not print {missing}; it printed:\n{printed}")
            time.sleep(0.05)


@contextlib.contextmanager
def running_rotel(
    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf", *, pass_on_to: str | None = None
) -> Iterator[Rotel]:
    """Runs a rotel collector on free loopback ports; it dies with this process.

    Args:
        protocol: Which of its endpoints to give.
        pass_on_to: Base URL of an OTLP/HTTP receiver that gets everything it received.

    Raises:
        MissingDependencyError: The package ``rotel`` is not installed.
        TimeoutError: It did not come up.
    """
    http, grpc = free_port(), free_port()
    if pass_on_to is None:
        exporter = ["--exporter", "blackhole"]
    else:
        exporter = ["--exporter", "otlp", "--otlp-exporter-endpoint", pass_on_to, "--otlp-exporter-protocol", "http"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "received.txt")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    _rotel_binary(),
                    "start",
                    *(part for kind in ("traces", "metrics", "logs") for part in ("--debug-log", kind)),
                    *("--debug-log-verbosity", "detailed"),
                    *("--otlp-http-endpoint", f"127.0.0.1:{http}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}"),
                    *("--pid-file", str(Path(folder, "pid")), "--log-file", str(Path(folder, "log"))),
                    *exporter,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                # It links to this Python's libpython, which the system's loader may not look for.
                env=os.environ | {"LD_LIBRARY_PATH": str(Path(sys.base_prefix, "lib"))},
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, no lock, no allocation of ours
            )
        try:
            for port in (http, grpc):
                _wait_until_listening(port, process, log)
            yield Rotel(f"http://127.0.0.1:{grpc if protocol == 'grpc' else http}", log)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def broken_endpoint(fault: Literal["refuses", "accepts nothing", "answers nothing"]) -> Iterator[str]:
    """The base URL of a receiver that is no good.

    Args:
        fault: ``refuses`` connections; ``accepts nothing``: connections are never accepted, so that
            bytes go nowhere; ``answers nothing``: requests are read and never answered.
    """
    if fault == "refuses":
        yield f"http://127.0.0.1:{free_port()}"
        return
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as open_sockets:
        if fault == "answers nothing":
            threading.Thread(target=_read_all, args=(listener, open_sockets), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _read_all(listener: socket.socket, open_sockets: contextlib.ExitStack) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            open_sockets.callback(_hang_up, connection)
            threading.Thread(target=_read, args=(connection,), daemon=True).start()


def _hang_up(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # Closing alone does not wake the thread that reads.


def _read(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _rotel_binary() -> str:
    spec = importlib.util.find_spec("rotel")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("a rotel collector", "rotel", "pip install rotel")
    return str(Path(spec.origin).with_name("rotel-agent"))


def _die_with_parent() -> None:
    # prctl(PR_SET_PDEATHSIG, SIGKILL), from linux/prctl.h.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _wait_until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"rotel did not listen on port {port}:\n{log.read_text(errors='replace')}")
        time.sleep(0.02)
