"""One streamed answer: sent on first use, typed per event, and cancellable from any thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, Self, TypeVar

import requests
import urllib3

from llamatelemetry.errors import BackendError, BackendProtocolError, RequestCancelledError, StreamInterruptedError
from llamatelemetry.llama.failures import error_from_message, error_in_stream
from llamatelemetry.llama.sse import SseParser
from llamatelemetry.llama.transport import Wire

_Chunk = TypeVar("_Chunk")
_PIECE_BYTES: Final = 65536


class ReplyStream(Iterator[_Chunk], Generic[_Chunk]):
    """Iterates over the chunks of one answer.

    The request goes out on the first ``next()``, so that :meth:`close` can end it in every phase,
    also while the server is still working on the prompt and has not answered at all.

    Iterating raises:
        BackendConnectionError: The server cannot be reached, or hung up before it answered.
        BackendResponseError: It refused; a subclass says why where it is known.
        BackendProtocolError: What it sent is not an event stream of JSON chunks.
        StreamInterruptedError: It stopped, or fell silent, before the answer was whole.
        RequestCancelledError: Another thread closed the stream meanwhile.

    Args:
        send: Sends the request, attaching its socket to the wire it is given.
        parse: Types one JSON message.
        last: True for the message after which no more events come. ``[DONE]`` ends any stream.
        address: ``host:port``, for messages.
        silence_s: Silence that was allowed when sending, in seconds.
    """

    def __init__(
        self,
        *,
        send: Callable[[Wire], requests.Response],
        parse: Callable[[Any], _Chunk],
        last: Callable[[_Chunk], bool],
        address: str,
        silence_s: float,
    ) -> None:
        self._send = send
        self._parse = parse
        self._last = last
        self._address = address
        self._silence_s = silence_s
        self._wire = Wire()
        self._response: requests.Response | None = None
        self._events: Iterator[str] = iter(())
        self._sse = SseParser()
        self._reading = threading.Lock()
        self._closed = False
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> _Chunk:
        with self._reading:
            if self._closed or self._ended:
                raise StopIteration
            try:
                chunk = self._next()
            except (BackendError, StopIteration) as error:
                self._release()
                if self._closed and isinstance(error, BackendError):
                    raise RequestCancelledError("the stream was closed before the answer was whole") from error
                raise
            except BaseException:
                # Ctrl-C in the middle of a read: the connection is in no state to be used again.
                self._wire.cut()
                self._release()
                raise
        if self._closed:
            # close() came while this thread held the lock and left the cleaning up to it.
            self.close()
        return chunk

    def close(self) -> None:
        """Ends the stream and frees the server's slot; idempotent, from any thread, never blocks.

        A thread that is waiting for the next chunk wakes with :class:`RequestCancelledError`.
        """
        self._closed = True
        if self._ended:
            return
        self._wire.cut()
        if self._reading.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._reading.release()

    def _next(self) -> _Chunk:
        while (data := next(self._events, None)) is None:
            self._events = self._sse.feed(self._read())
        if data == "[DONE]":
            raise StopIteration
        try:
            message = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BackendProtocolError(f"{self._address} sent an event that is not JSON: {data[:80]!r}") from error
        if isinstance(message, dict) and message.get("error") is not None:
            raise error_from_message(500, message)
        chunk = self._parse(message)
        if self._last(chunk):
            self._release()
        return chunk

    def _read(self) -> bytes:
        if self._response is None:
            self._response = self._send(self._wire)
        try:
            piece: bytes = self._response.raw.read1(_PIECE_BYTES, decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise error_in_stream(error, self._address, self._silence_s) from error
        if not piece:
            self._sse.end()
            raise StreamInterruptedError(f"{self._address} ended the stream before the answer was whole")
        return piece

    def _release(self) -> None:
        self._ended = True
        self._wire.detach()
        if self._response is not None:
            self._response.close()
