"""Ports of this machine's loopback address."""

from __future__ import annotations

import socket
from typing import Final

ADDRESS: Final = "127.0.0.1"
"""The only address that deployed servers listen on: they have no password."""


def taken(port: int) -> str:
    """Why nobody could listen on a port now; empty where somebody could."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections still closing after the last one do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""
