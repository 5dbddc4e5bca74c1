"""How llama-server and the connection to it fail, as typed errors.

Two tables in one place: the error bodies that the server documents (``tools/server/README.md``,
``format_error_response`` in ``server-common.cpp``), and what requests and urllib3 raise when no
proper answer comes.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import requests
import urllib3

from llamatelemetry.errors import (
    BackendConnectionError,
    BackendError,
    BackendProtocolError,
    BackendResponseError,
    ContextOverflowError,
    NotSupportedError,
    ServerLoadingError,
    StreamInterruptedError,
)

_SHOWN_CHARACTERS: Final = 500
_GARBLED: Final = (
    http.client.BadStatusLine,
    http.client.LineTooLong,
    http.client.UnknownProtocol,
    urllib3.exceptions.HeaderParsingError,
    urllib3.exceptions.DecodeError,
    requests.exceptions.ContentDecodingError,
)


def error_from_message(status: int, message: Any) -> BackendResponseError:
    """The typed error for an error body, or for the ``error`` object of a streamed event.

    Args:
        status: HTTP status; a streamed error carries its own ``code``, which wins.
        message: The decoded JSON, or None if the body was not JSON.
    """
    error = message.get("error") if isinstance(message, Mapping) else None
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, Mapping):
        error = {}
    code, kind, text = error.get("code"), error.get("type"), error.get("message")
    if isinstance(code, int) and not isinstance(code, bool):
        status = code
    if not isinstance(kind, str):
        kind = None
    shown = text[:_SHOWN_CHARACTERS] if isinstance(text, str) else http.client.responses.get(status, "no reason given")
    if kind == "exceed_context_size_error":
        return ContextOverflowError(_count(error, "n_prompt_tokens"), _count(error, "n_ctx"), status=status)
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        hint = f"llama-server is not ready: {shown}; ask again in a moment"
        return ServerLoadingError(hint, status=status, kind=kind)
    if status == http.HTTPStatus.NOT_IMPLEMENTED:
        return NotSupportedError(shown, status=status, kind=kind)
    return BackendResponseError(f"llama-server refused the request ({status}): {shown}", status=status, kind=kind)


def error_from_body(status: int, body: bytes) -> BackendResponseError:
    """The typed error for an HTTP error response."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        message = None
    return error_from_message(status, message)


def error_from_transport(error: Exception, address: str, timeout_s: float) -> BackendError:
    """The typed error for what requests or urllib3 raised before an answer had come.

    Args:
        error: What was raised.
        address: ``host:port`` that was tried.
        timeout_s: Silence that was allowed, in seconds.
    """
    if (garbled := _garbled(error)) is not None:
        return BackendProtocolError(f"{address} does not speak HTTP as llama-server does: {_text(garbled)}")
    if isinstance(error, requests.ConnectTimeout):
        return BackendConnectionError(address, "it did not accept a connection in time")
    if _timed_out(error):
        fix = "check that the server is alive, or allow a longer silence"
        return BackendConnectionError(address, f"it was silent for {timeout_s:g} s", fix)
    return BackendConnectionError(address, _text(_root(error)))


def error_in_stream(error: Exception, address: str, timeout_s: float) -> BackendError:
    """The typed error for what urllib3 raised in the middle of a streamed answer; see above."""
    if (garbled := _garbled(error)) is not None:
        return BackendProtocolError(f"the stream from {address} cannot be read: {_text(garbled)}")
    reason = f"the server was silent for {timeout_s:g} s" if _timed_out(error) else _text(_root(error))
    return StreamInterruptedError(f"the answer from {address} broke off: {reason}")


def _garbled(error: Exception) -> BaseException | None:
    for cause in _causes(error):
        # RemoteDisconnected is a BadStatusLine too, and means that the peer hung up.
        if isinstance(cause, _GARBLED) and not isinstance(cause, http.client.RemoteDisconnected):
            return cause
    return None


def _timed_out(error: Exception) -> bool:
    timeouts = (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)
    return any(isinstance(cause, timeouts) for cause in _causes(error))


def _root(error: Exception) -> BaseException:
    return tuple(_causes(error))[-1]


def _causes(error: BaseException) -> Iterator[BaseException]:
    # requests and urllib3 wrap: the cause is an attribute, the last argument or __cause__.
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        inner = getattr(current, "reason", None) or (current.args[-1] if current.args else None)
        if not isinstance(inner, BaseException):
            inner = current.__cause__ or current.__context__
        current = inner


def _text(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text or type(error).__name__)[:_SHOWN_CHARACTERS]


def _count(error: Mapping[str, Any], key: str) -> int | None:
    value = error.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
