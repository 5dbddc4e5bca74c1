"""Ports that can be had, and ports that cannot."""

from __future__ import annotations

import socket

from llamatelemetry.deployment.ports import taken


def test_a_port_is_taken_while_somebody_listens_there():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert taken(port)
    assert taken(port) == ""
