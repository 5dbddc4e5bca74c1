"""Reads single fields of what llama-server sends; a wrong one is an error that names the path to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from llamatelemetry.errors import BackendProtocolError

_T = TypeVar("_T")
NUMBER: Final = (int, float)

# What is past it is nonsense, and would not fit the integers of telemetry.
MOST: Final = 2**53


def wrong(path: str, value: object, wanted: str) -> BackendProtocolError:
    """The error for a value that is not what it has to be, which is shown as far as it is short."""
    shown = repr(value)
    return BackendProtocolError(f"llama-server sent {path}={shown[:80]}, expected {wanted}")


def need(message: Any, path: str, key: str, kind: type[_T]) -> _T:
    """A value that has to be there, of one type; true and false are no numbers.

    Raises:
        BackendProtocolError: It is not.
    """
    value = message.get(key) if isinstance(message, Mapping) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise wrong(f"{path}.{key}", value, kind.__name__)
    return value


def may(message: Mapping[str, Any], path: str, key: str, kind: type[_T]) -> _T | None:
    """As :func:`need`, or None where there is none."""
    return None if message.get(key) is None else need(message, path, key, kind)


def may_number(message: Mapping[str, Any], path: str, key: str) -> float | None:
    """A time; None where there is none, or it is no time that anything can take: negative, infinite, not a number."""
    value = message.get(key)
    if value is None:
        return None
    if not isinstance(value, NUMBER) or isinstance(value, bool):
        raise wrong(f"{path}.{key}", value, "a number")
    return float(value) if 0 <= value <= MOST else None


def may_count(message: Mapping[str, Any], path: str, key: str) -> int | None:
    """A count; None where there is none, or it is not known: llama.cpp's counts begin at -1."""
    value = may(message, path, key, int)
    return value if value is not None and 0 <= value <= MOST else None


def told_count(message: Mapping[str, Any], path: str, key: str, *, most: int = MOST) -> int | None:
    """As :func:`need_count`, or None where there is none."""
    return None if message.get(key) is None else need_count(message, path, key, most=most)


def need_count(message: Any, path: str, key: str, *, least: int = 0, most: int = MOST) -> int:
    """A count in a range that has to be there.

    Raises:
        BackendProtocolError: It is not.
    """
    value = need(message, path, key, int)
    if not least <= value <= most:
        raise wrong(f"{path}.{key}", value, f"a number from {least} to {most}")
    return value


def mapping_at(message: Any, path: str) -> Mapping[str, Any]:
    """The object that a message has to be.

    Raises:
        BackendProtocolError: It is none.
    """
    if not isinstance(message, Mapping):
        raise wrong(path, message, "an object")
    return message
