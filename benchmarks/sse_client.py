"""CPU per streamed token of our client, against ``requests.iter_lines()`` with ``json.loads()``.

Run: python benchmarks/sse_client.py [--json]

A process of its own serves chat chunks as llama-server frames them, over a real socket: as fast as
they are read, and one per millisecond. Where the client has to wait, most of the CPU time is the
kernel's and that of cold caches, so a bare ``recv()`` loop is measured beside the two.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import requests
from report import Row, report

from llamatelemetry.llama import LlamaClient

TOKENS = 1000
ROUNDS = 3
BUDGET_US = 40.0
CHUNK = {
    "choices": [{"finish_reason": None, "index": 0, "delta": {"content": " token"}}],
    "created": 1795336632,
    "id": "chatcmpl-6mcYPncEAvWDXMF4wmOeLcHOBVI6krxE",
    "model": "SmolLM2-135M-Instruct",
    "system_fingerprint": "b0-unknown",
    "object": "chat.completion.chunk",
}


def framed(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def serve(ports: Connection) -> None:
    """Answers each request with a stream; the path says how many microseconds lie between events."""
    event = framed(b"data: " + json.dumps(CHUNK, separators=(",", ":")).encode() + b"\n\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ports.send(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            # Whoever has read the last event may hang up at once.
            with connection, suppress(ConnectionError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                request = b""
                while not request.endswith(b"}"):
                    request += connection.recv(65536)
                gap_s = int(request.split(b"/")[1]) / 1e6
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
                connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(TOKENS):
                    connection.sendall(event)
                    if gap_s:
                        time.sleep(gap_s)
                connection.sendall(framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def ours(url: str) -> int:
    """Reads a stream with our client."""
    with LlamaClient(url) as client:
        return sum(1 for chunk in client.chat({}) if chunk.content)


def baseline(url: str) -> int:
    """Reads it as a script would."""
    tokens = 0
    with requests.post(f"{url}/v1/chat/completions", json={"stream": True}, stream=True, timeout=60) as reply:
        for line in reply.iter_lines():
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"]["content"]:
                tokens += 1
    return tokens


def bare(url: str) -> int:
    """Receives it and looks at nothing."""
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"POST /{path}/ HTTP/1.1\r\n\r\n{{}}".encode())
        while connection.recv(65536):
            pass
    return TOKENS


def cpu_us(read: Callable[[str], int], url: str) -> float:
    """CPU microseconds per token of this thread."""
    begun = time.thread_time()
    assert read(url) == TOKENS
    return (time.thread_time() - begun) / TOKENS * 1e6


def main() -> None:
    """Measures and prints."""
    ports, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    base = f"http://127.0.0.1:{ports.recv()}"
    rows = []
    for gap_us, when in ((0, "as fast as they are read"), (1000, "one per millisecond")):
        url = f"{base}/{gap_us}"
        # They take turns, so that a noisy machine disturbs all of them; the least is the code's own.
        measured = [[cpu_us(read, url) for read in (ours, baseline, bare)] for _ in range(ROUNDS)]
        client, lines, receive = (min(column) for column in zip(*measured, strict=True))
        budget = f"<= {BUDGET_US:g}" if gap_us == 0 else ""
        rows += [
            Row(name=f"our client, events {when}", value=client, unit="us CPU", baseline=lines, budget=budget),
            Row(name=f"bare recv(), events {when}", value=receive, unit="us CPU"),
        ]
    server.kill()
    report("CPU per streamed token (baseline: requests.iter_lines() and json.loads())", rows)
    assert rows[0].value <= BUDGET_US


if __name__ == "__main__":
    main()
