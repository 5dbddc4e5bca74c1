"""Server-Sent Events, as llama-server sends them, from bytes that arrive in any pieces.

A generation is one event per token, so this runs once per token and does as little as it can:
no state machine per byte, no copy where a piece ends at a line end. It is strict, because a stream
that is not what it claims to be must end in an error and not in an empty answer.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html. Of it, lines ending in a
lone CR are not accepted (no JSON text contains one), nor are field names the format does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from llamatelemetry.errors import BackendProtocolError, StreamInterruptedError

MAX_EVENT_BYTES: Final = 16 * 2**20
"""Most bytes one event may have: the last one of ``/completion`` repeats the whole prompt."""

_IGNORED_FIELDS: Final = frozenset({b"event", b"id", b"retry"})
_SHOWN_BYTES: Final = 80


class SseParser:
    """Turns pieces of a byte stream into the data of whole events.

    Args:
        max_event_bytes: Size past which an unfinished event is an error, in bytes.
    """

    __slots__ = ("_data", "_data_bytes", "_max_event_bytes", "_tail", "_tail_bytes")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """Takes the next bytes and yields the data of every event they complete, in order.

        Iterate to the end before feeding again. An error comes after the events before it.

        Raises:
            BackendProtocolError: The bytes are not an event stream, not UTF-8, or one event too big.
        """
        if b"\n" not in piece:
            self._keep(piece)
            return
        if self._tail:
            self._tail.append(piece)
            piece = b"".join(self._tail)
            self._tail.clear()
            self._tail_bytes = 0
        lines = piece.split(b"\n")
        tail = lines.pop()
        data = self._data
        for ended in lines:
            line = ended[:-1] if ended[-1:] == b"\r" else ended
            if not line:
                if data:
                    whole = data[0] if len(data) == 1 else b"\n".join(data)
                    data.clear()
                    self._data_bytes = 0
                    yield _decode(whole)
            elif line.startswith(b"data:"):
                data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._data_bytes += len(line)
            elif line[:1] != b":" and line.partition(b":")[0] not in _IGNORED_FIELDS:
                raise BackendProtocolError(f"not a line of an event stream: {_shown(line)}")
        if tail or data:
            self._keep(tail)

    def end(self) -> None:
        """Says that no more bytes come.

        Raises:
            StreamInterruptedError: They stopped in the middle of an event.
        """
        if self._tail or self._data:
            last = b"".join([*self._data, *self._tail])
            raise StreamInterruptedError(f"the stream ended in the middle of an event: {_shown(last)}")

    def _keep(self, tail: bytes) -> None:
        if tail:
            self._tail.append(tail)
            self._tail_bytes += len(tail)
        if self._data_bytes + self._tail_bytes > self._max_event_bytes:
            raise BackendProtocolError(f"one event has more than {self._max_event_bytes} bytes")


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BackendProtocolError(f"an event is not UTF-8: {error.reason} in {_shown(data)}") from error


def _shown(data: bytes) -> str:
    return repr(data[:_SHOWN_BYTES]) + ("..." if len(data) > _SHOWN_BYTES else "")
