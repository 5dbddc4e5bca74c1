"""``llamatelemetry replay`` over a real socket, from the command line's side."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver(ThreadingHTTPServer):
    """Takes what is posted; answers ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.status = 200
        self.received: list[tuple[str, dict[str, str], bytes]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append((self.path, headers, body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """A file of two lines with one span each."""
    file = tmp_path / "traces.jsonl"
    file.write_text("".join(line(name) for name in ("first", "second")))
    return file


def line(name: str) -> str:
    span = {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": "b7ad6b7169203331",
        "name": name,
        "startTimeUnixNano": "1",
        "endTimeUnixNano": "2",
    }
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}) + "\n"


def names(receiver: Receiver) -> list[str]:
    requests = [ExportTraceServiceRequest.FromString(body) for _, _, body in receiver.received]
    return [request.resource_spans[0].scope_spans[0].spans[0].name for request in requests]


def test_a_file_is_delivered_and_counted(shelf: Any, receiver: Receiver, traces: Path) -> None:
    done = shelf.llamatelemetry("replay", str(traces), "--to", receiver.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (f"Delivered 2 lines with 2 spans, 0 metrics and 0 log records to {receiver.url}.\n")
    assert names(receiver) == ["first", "second"]
    assert {path for path, _, _ in receiver.received} == {"/v1/traces"}


def test_a_folder_headers_and_json(shelf: Any, receiver: Receiver, traces: Path) -> None:
    done = shelf.llamatelemetry(
        "replay", str(traces.parent), "--to", receiver.url, "-H", "authorization=Bearer a=b", "-H", "x-team=", "--json"
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said == {
        "to": receiver.url,
        "lines": 2,
        "spans": 2,
        "metrics": 0,
        "log_records": 0,
        "bytes": traces.stat().st_size,
    }
    assert {headers["authorization"] for _, headers, _ in receiver.received} == {"Bearer a=b"}
    assert {headers["x-team"] for _, headers, _ in receiver.received} == {""}


def test_a_file_that_is_gone_is_named_without_a_traceback(shelf: Any, receiver: Receiver, traces: Path) -> None:
    (traces.parent / "a.jsonl").symlink_to("nowhere")
    done = shelf.llamatelemetry("replay", str(traces.parent), "--to", receiver.url)
    assert done.returncode == 1
    assert "a.jsonl cannot be read" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_line_that_is_no_telemetry_ends_it_with_its_place(shelf: Any, receiver: Receiver, traces: Path) -> None:
    traces.write_text(line("first") + "not json\n" + line("third"))
    done = shelf.llamatelemetry("replay", str(traces), "--to", receiver.url, "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1
    assert error["type"] == "ReplayError"
    assert f"{traces}:2 " in error["message"]
    assert names(receiver) == ["first"]


def test_a_receiver_that_refuses_ends_it_without_a_traceback(shelf: Any, receiver: Receiver, traces: Path) -> None:
    receiver.status = 401
    done = shelf.llamatelemetry("replay", str(traces), "--to", receiver.url)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "HTTP 401" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["missing.jsonl", "--to", "http://127.0.0.1:1"], "'missing.jsonl' does not exist"),
        (["."], "Missing option '--to'"),
        ([".", "--to", "127.0.0.1:4318"], "give a URL such as http://127.0.0.1:4318"),
        ([".", "--to", "http://127.0.0.1:1", "-H", "token"], "'token' is not NAME=VALUE"),
        ([".", "--to", "http://127.0.0.1:1", "--timeout", "0"], "0.0 is not in the range"),
    ],
)
def test_wrong_usage_says_what_to_give(shelf: Any, arguments: list[str], error: str) -> None:
    done = shelf.llamatelemetry("replay", *arguments)
    assert done.returncode == 2
    assert error in " ".join(done.stderr.split())


def test_a_terminal_sees_progress_on_standard_error(receiver: Receiver, traces: Path) -> None:
    terminal, standard_error = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "llamatelemetry.cli", "replay", str(traces), "--to", receiver.url],
        stdout=subprocess.PIPE,
        stderr=standard_error,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        timeout=60,
        check=True,
    )
    os.close(standard_error)
    seen = os.read(terminal, 65536)
    os.close(terminal)
    assert b"Sending" in seen
    assert done.stdout.startswith(b"Delivered 2 lines")
