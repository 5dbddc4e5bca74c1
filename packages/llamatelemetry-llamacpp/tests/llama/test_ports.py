from __future__ import annotations

import socket

import pytest

from llamatelemetry.errors import BackendStartError
from llamatelemetry.llama.ports import check_port, free_port, is_healthy


def test_a_free_port_can_be_used():
    check_port(free_port())


def test_a_taken_port_cannot_and_serves_nothing_if_nobody_speaks_http(answering):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(BackendStartError, match=f"port {port}"):
            check_port(port)
    assert not is_healthy(int(answering(b"no HTTP\r\n\r\n").rpartition(":")[2]))
    assert not is_healthy(free_port())


def test_a_server_is_healthy_once_it_serves(server, answering):
    assert is_healthy(server.port)
    loading = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    assert not is_healthy(int(answering(loading).rpartition(":")[2]))
