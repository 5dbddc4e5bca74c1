"""Telemetry files, sent to a receiver: what an exporter would have sent, had there been an endpoint.

Each line is one export request. It is read as OTLP/JSON, strictly, and posted as protobuf, which
every OTLP/HTTP receiver takes, while some do not take JSON.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import requests
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from llamatelemetry.errors import ReplayError
from llamatelemetry.readers import without_credentials

RETRYABLE: Final = frozenset({429, 502, 503, 504})
"""https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes"""
ATTEMPTS: Final = 5
"""Times that one line is tried before the replay gives up."""
LINE_MAX_BYTES: Final = 256 * 2**20
"""Of one export request; a receiver takes a tenth of that."""
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 30.0

_ID_LENGTHS: Final = {"traceId": (0, 32), "spanId": (0, 16), "parentSpanId": (0, 16)}
"""Hexadecimal digits of an id; none where there is no such id."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of export request: what it is and where and how it is answered."""

    field: str
    request: type[Message]
    response: type[Message]
    rejected: str
    path: str


_KINDS: Final = (
    _Kind("resourceSpans", ExportTraceServiceRequest, ExportTraceServiceResponse, "rejected_spans", "/v1/traces"),
    _Kind(
        "resourceMetrics",
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
        "rejected_data_points",
        "/v1/metrics",
    ),
    _Kind("resourceLogs", ExportLogsServiceRequest, ExportLogsServiceResponse, "rejected_log_records", "/v1/logs"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySummary:
    """What a replay delivered.

    Attributes:
        lines: Export requests that the receiver accepted.
        spans: Spans in them.
        metrics: Metrics in them.
        log_records: Log records in them.
        bytes: Bytes read from the files.
    """

    lines: int = 0
    spans: int = 0
    metrics: int = 0
    log_records: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        return f"{self.lines} lines with {self.spans} spans, {self.metrics} metrics and {self.log_records} log records"


def replay(
    path: str | Path,
    endpoint: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
    progress: Callable[[ReplaySummary], None] | None = None,
) -> ReplaySummary:
    """Posts every line of a file, or of the ``.jsonl`` files of a folder, to an OTLP/HTTP receiver.

    Lines are sent in order and each is accepted before the next is sent. Receivers that are busy
    are asked again, with growing pauses.

    Args:
        path: The file or folder.
        endpoint: Base URL, for example ``http://127.0.0.1:4318``.
        headers: Extra headers, for example for authentication.
        timeout_s: Most seconds to wait for one answer.
        progress: Called after each line with the summary so far.

    Returns:
        What was delivered, which is everything.

    Raises:
        ReplayError: A line is malformed, or the receiver does not accept it. Names the file and the
            line; everything before it was delivered.
    """
    summary = ReplaySummary()
    with requests.Session() as session:
        session.headers.update({"Content-Type": "application/x-protobuf", **(headers or {})})
        for file in _files(Path(path)):
            for place, line in _lines(file, summary):
                kind, request = _parsed(line, place, summary)
                try:
                    _post(session, endpoint.rstrip("/"), kind, request, timeout_s)
                except _RefusedError as refusal:
                    receiver = without_credentials(endpoint)
                    raise ReplayError(f"{receiver} did not take {place}: {refusal}. Before it: {summary}") from refusal
                summary = _added(summary, request, len(line))
                if progress is not None:
                    progress(summary)
    return summary


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.jsonl"))
    if not files:
        raise ReplayError(f"{path} holds no .jsonl files: nothing was delivered")
    return files


def _lines(file: Path, summary: ReplaySummary) -> Iterator[tuple[str, bytes]]:
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(iter(partial(stream.readline, LINE_MAX_BYTES + 1), b""), 1):
                if line.strip():
                    yield f"{file}:{number}", line
    except OSError as error:
        raise ReplayError(f"{file} cannot be read: {error}. Before it: {summary}") from error


def _parsed(line: bytes, place: str, summary: ReplaySummary) -> tuple[_Kind, Message]:
    if len(line) > LINE_MAX_BYTES:
        raise ReplayError(
            f"{place} is longer than {LINE_MAX_BYTES} bytes, which no export request is. Before it: {summary}"
        )
    try:
        content = json.loads(line)
        kind = next((kind for kind in _KINDS if isinstance(content, dict) and kind.field in content), None)
        if kind is None:
            raise ValueError("it has none of " + ", ".join(kind.field for kind in _KINDS))
        # Unknown fields are newer ones, which the specification says to ignore.
        return kind, json_format.ParseDict(_with_base64_ids(content), kind.request(), ignore_unknown_fields=True)
    except (ValueError, TypeError, json_format.ParseError, RecursionError, OverflowError, SystemError) as error:
        # The last is protobuf's word for a lone surrogate where it looks up a name.
        cut = "" if line.endswith(b"\n") else " (it is cut short: its process was killed, or is still writing)"
        raise ReplayError(f"{place} is not an OTLP/JSON export request: {error}{cut}. Before it: {summary}") from error


def _with_base64_ids(value: Any) -> Any:
    """OTLP/JSON has ids in hex where protobuf's JSON mapping wants base64."""
    if isinstance(value, list):
        return [_with_base64_ids(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _base64(key, item) if key in _ID_LENGTHS else _with_base64_ids(item) for key, item in value.items()
        }
    return value


def _base64(name: str, hexadecimal: Any) -> str:
    lengths = _ID_LENGTHS[name]
    if not isinstance(hexadecimal, str) or len(hexadecimal) not in lengths:
        raise TypeError(f"{name} must be {lengths[-1]} hexadecimal digits, not {hexadecimal!r}")
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode("ascii")


class _RefusedError(Exception):
    """The receiver does not take a request, whatever is tried."""


def _post(session: requests.Session, endpoint: str, kind: _Kind, request: Message, timeout_s: float) -> None:
    body = request.SerializeToString()
    problem = ""
    for attempt in range(ATTEMPTS):
        pause_s = _FIRST_PAUSE_S * 2**attempt
        try:
            answer = session.post(endpoint + kind.path, data=body, timeout=timeout_s, allow_redirects=False)
        except ValueError as error:  # A URL or a header that cannot be sent, however often.
            problem = str(error)
            break
        except requests.RequestException as error:
            problem = _reason(error, timeout_s)
        else:
            if answer.status_code < HTTPStatus.MULTIPLE_CHOICES:
                _check_partial_success(answer, kind)
                return
            problem = f"HTTP {answer.status_code} {answer.headers.get('Location') or answer.text[:200]}".strip()
            if answer.status_code not in RETRYABLE:
                break
            pause_s = _asked_pause_s(answer) or pause_s
        if attempt + 1 < ATTEMPTS:
            time.sleep(pause_s)
    raise _RefusedError(problem)


def _reason(error: requests.RequestException, timeout_s: float) -> str:
    """What went wrong, without the wrapping of requests and urllib3 that the system's own words sit in."""
    if isinstance(error, requests.Timeout):
        return f"it timed out after {timeout_s:g} s"
    root: BaseException = error
    # The cause is the attribute "reason", the last argument or __cause__, depending on the wrapper.
    while isinstance(
        inner := getattr(root, "reason", None) or root.__cause__ or (root.args[-1] if root.args else None),
        BaseException,
    ):
        root = inner
    return (root.strerror if isinstance(root, OSError) else None) or str(root) or type(root).__name__


def _asked_pause_s(answer: requests.Response) -> float:
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_PAUSE_S) if asked.isdecimal() else 0.0


def _check_partial_success(answer: requests.Response, kind: _Kind) -> None:
    # https://opentelemetry.io/docs/specs/otlp/#partial-success: accepted, but not all of it, and not to be sent again.
    if not answer.headers.get("Content-Type", "").startswith("application/x-protobuf"):
        return
    try:
        response: Any = kind.response.FromString(answer.content)
    except DecodeError:
        return  # It says 200; what else it says is not OTLP.
    rejected = getattr(response.partial_success, kind.rejected)
    if rejected:
        raise _RefusedError(f"{kind.rejected} is {rejected}: {response.partial_success.error_message}")


def _added(summary: ReplaySummary, request: Any, size: int) -> ReplaySummary:
    spans = metrics = log_records = 0
    if isinstance(request, ExportTraceServiceRequest):
        spans = sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
    elif isinstance(request, ExportMetricsServiceRequest):
        metrics = sum(len(scope.metrics) for resource in request.resource_metrics for scope in resource.scope_metrics)
    elif isinstance(request, ExportLogsServiceRequest):
        log_records = sum(len(scope.log_records) for resource in request.resource_logs for scope in resource.scope_logs)
    return ReplaySummary(
        lines=summary.lines + 1,
        spans=summary.spans + spans,
        metrics=summary.metrics + metrics,
        log_records=summary.log_records + log_records,
        bytes=summary.bytes + size,
    )
