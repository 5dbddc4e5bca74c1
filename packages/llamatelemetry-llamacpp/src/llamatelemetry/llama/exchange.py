"""One question and one answer over HTTP: a connection each, bounded replies, typed errors.

What is asked, and what an answer means, is the client's business.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import requests
import urllib3

from llamatelemetry.errors import BackendProtocolError, InvalidRequestError, InvalidValueError
from llamatelemetry.llama.failures import error_from_body, error_from_transport
from llamatelemetry.llama.transport import Wire, make_session, using

MAX_REPLY_BYTES: Final = 64 * 2**20
"""Most bytes read of one reply: a thousand embeddings of 4,096 numbers still fit."""

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_PIECE_BYTES: Final = 65536


class Exchange:
    """Asks one server. Thread-safe.

    Args:
        server_url: Base URL; a path prefix is kept.
        api_key: Sent as a bearer token.
        connect_timeout_s: Longest wait for a connection, in seconds.
        reply_timeout_s: Longest silence, in seconds, where a call says nothing else.

    Raises:
        InvalidValueError: ``server_url`` is not an HTTP URL.
    """

    def __init__(
        self, server_url: str, *, api_key: str | None, connect_timeout_s: float, reply_timeout_s: float
    ) -> None:
        parts = _split(server_url)
        self.host: Final = parts.hostname or ""
        self.port: Final = parts.port or (443 if parts.scheme == "https" else 80)
        self.address: Final = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        self._base = server_url.rstrip("/")
        self._connect_timeout_s = connect_timeout_s
        self._reply_timeout_s = reply_timeout_s
        self._session = make_session(self.host)
        # An idle connection holds one of llama-server's few HTTP threads for five seconds, and other
        # callers wait behind it; one used again right after a stream is closed without an answer every
        # third time. A new one costs less than either.
        self._session.headers["Connection"] = "close"
        if api_key is not None:
            # Not as a header: requests would put in its place what ~/.netrc has for the host.
            self._session.auth = _Bearer(api_key)

    def close(self) -> None:
        """Releases what the session holds; idempotent."""
        self._session.close()

    def json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        wire: Wire | None = None,
    ) -> Any:
        """Asks and decodes the JSON of the reply; see :meth:`read`.

        Raises:
            BackendProtocolError: It is none.
        """
        reply = self.read(method, path, body, timeout_s=timeout_s, headers=headers, wire=wire)
        try:
            return json.loads(reply)
        except (ValueError, RecursionError) as error:
            raise BackendProtocolError(f"{self.address}{path} sent what is not JSON: {reply[:80]!r}") from error

    def read(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        wire: Wire | None = None,
    ) -> bytes:
        """Asks and reads the whole reply.

        Args:
            method: HTTP method.
            path: Path under the base URL.
            body: Sent as JSON.
            timeout_s: Longest silence, in seconds; None is ``reply_timeout_s``.
            headers: More headers.
            wire: Ends the call when it is cut.

        Raises:
            BackendError: The typed reason why there is none.
        """
        silence_s = self._reply_timeout_s if timeout_s is None else timeout_s
        used = Wire() if wire is None else wire
        try:
            with self.send(method, path, body, headers=headers, silence_s=silence_s, wire=used) as response:
                return self._body(response, silence_s)
        finally:
            used.detach()

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        headers: Mapping[str, str],
        silence_s: float,
        wire: Wire,
    ) -> requests.Response:
        """Sends and returns the response once its headers are there and say that all is well.

        Args:
            method: HTTP method.
            path: Path under the base URL.
            body: Sent as JSON.
            headers: More headers.
            silence_s: Longest silence, in seconds; also the longest wait for a connection if that is less.
            wire: Gets the connection's socket when the wait for the answer begins.

        Raises:
            InvalidRequestError: The body is no JSON.
            BackendError: The typed reason why there is none.
        """
        data, kind = (None, {}) if body is None else (_encode(body), {"Content-Type": "application/json"})
        try:
            with using(wire):
                response = self._session.request(
                    method,
                    self._base + path,
                    data=data,
                    headers={**kind, **headers},
                    timeout=(min(self._connect_timeout_s, silence_s), silence_s),
                    stream=True,
                    allow_redirects=False,
                )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise error_from_transport(error, self.address, silence_s) from error
        if response.status_code == HTTPStatus.OK:
            return response
        with response:
            raise error_from_body(response.status_code, self._body(response, silence_s))

    def _body(self, response: requests.Response, silence_s: float) -> bytes:
        pieces = bytearray()
        try:
            while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
                pieces += piece
                if len(pieces) > MAX_REPLY_BYTES:
                    raise BackendProtocolError(f"{self.address} sent a reply of more than {MAX_REPLY_BYTES} bytes")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise error_from_transport(error, self.address, silence_s) from error
        return bytes(pieces)


def _encode(body: Mapping[str, Any]) -> bytes:
    # Not left to requests, whose word for it could be taken for a connection that failed.
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError("body", body, f"give what JSON can hold ({error})") from error


class _Bearer(requests.auth.AuthBase):
    def __init__(self, api_key: str) -> None:
        self._header = f"Bearer {api_key}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


def _split(server_url: str) -> urllib.parse.SplitResult:
    fix = "give a URL such as http://127.0.0.1:8080"
    try:
        parts = urllib.parse.urlsplit(server_url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError as error:
        raise InvalidValueError("server_url", server_url, fix) from error
    if not usable:
        raise InvalidValueError("server_url", server_url, fix)
    return parts
