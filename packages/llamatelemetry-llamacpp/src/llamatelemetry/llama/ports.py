"""Ports of this machine's loopback address: one that is free, one that can be used, one that serves."""

from __future__ import annotations

import http.client
import socket
from typing import Final

from llamatelemetry.errors import BackendStartError
from llamatelemetry.llama.launch import HOST

MAX_PORT: Final = 65535
"""The largest port number there is."""

_HEALTH_TIMEOUT_S: Final = 2.0


def free_port() -> int:
    """A port that nothing is bound to at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def check_port(port: int) -> None:
    """Finds out whether a server could bind a port.

    Raises:
        BackendStartError: It could not; says why.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections still closing after the last one do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BackendStartError(
                f"port {port} on {HOST} cannot be used ({error.strerror}): "
                "stop what listens there, give another port, or give none and a free one is found"
            ) from error


def is_healthy(port: int) -> bool:
    """True if a llama-server listens there and says that it serves."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
