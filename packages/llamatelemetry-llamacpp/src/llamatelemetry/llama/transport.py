"""HTTP connections that another thread can wake.

requests has no way to interrupt a call that waits for a server, and llama-server sends nothing,
not even headers, while it works on a prompt. So the connection hands its socket to a
:class:`Wire` before it waits, and cutting the wire shuts the socket down: the waiting thread wakes
at once, and the server sees the hang-up and frees its slot.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Full
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class Wire:
    """The socket that one request uses, as long as it uses it. Thread-safe."""

    __slots__ = ("_lock", "_socket", "was_cut")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.was_cut: bool = False
        """True from the first :meth:`cut` on."""

    def attach(self, connected: socket.socket) -> None:
        """Remembers the socket; shuts it down if the wire was cut before it was known."""
        with self._lock:
            self._socket = connected
            if self.was_cut:
                _shut_down(connected)

    def detach(self) -> None:
        """Forgets the socket: another request may use it from now on."""
        with self._lock:
            self._socket = None

    def cut(self) -> None:
        """Shuts the socket down, now or as soon as it is known; never blocks."""
        with self._lock:
            self.was_cut = True
            if self._socket is not None:
                _shut_down(self._socket)


_thread = threading.local()


@contextmanager
def using(wire: Wire) -> Iterator[Wire]:
    """Within it, requests that this thread sends attach their socket to ``wire``."""
    _thread.wire = wire
    try:
        yield wire
    finally:
        _thread.wire = None


class _Wakeable:
    """Mixed into urllib3's connections: attaches the socket before waiting for the answer."""

    sock: Any

    def getresponse(self) -> Any:
        wire: Wire | None = getattr(_thread, "wire", None)
        if wire is not None:
            wire.attach(self.sock)
        return super().getresponse()  # type: ignore[misc]  # the connection it is mixed into has it


class _HttpConnection(_Wakeable, HTTPConnection):
    pass


class _HttpsConnection(_Wakeable, HTTPSConnection):
    pass


class _KeepsNone:
    """Mixed into urllib3's pools: a connection serves one request, whatever the server says of it."""

    pool: Any

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.close()
        # More requests than places were in flight, or the pool is closed: urllib3 would warn of it each time.
        with suppress(Full, AttributeError):
            self.pool.put(None, block=False)


class _HttpPool(_KeepsNone, HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(_KeepsNone, HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


_POOLS: Final = {"http": _HttpPool, "https": _HttpsPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


def is_loopback(host: str) -> bool:
    """True for this machine's own names and addresses: ``localhost``, ``127.0.0.1``, ``::1``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_session(host: str) -> requests.Session:
    """A session whose calls can be woken, and that asks no proxy for this machine itself."""
    session = requests.Session()
    session.trust_env = not is_loopback(host)
    adapter = _Adapter(pool_connections=1)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _shut_down(connected: socket.socket) -> None:
    # It may be closed already, by the peer or by the thread that read from it.
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
