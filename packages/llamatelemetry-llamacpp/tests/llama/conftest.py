"""A server that does exactly what a test says, over a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

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
