"""From the text of a variable to a value: what :mod:`llamatelemetry.config` reads the environment with.

Each reader raises ValueError with what to give instead, and with nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args
from urllib.parse import unquote, urlsplit


def one_of(literal: object) -> Callable[[str], str]:
    """Reads one of the strings of a ``Literal``."""
    allowed = get_args(literal)

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError("choose one of " + ", ".join(allowed))
        return text

    return read


def some_of(literal: object) -> Callable[[str], tuple[str, ...]]:
    """Reads at least one of the strings of a ``Literal``, separated by commas, and leaves out repeats."""
    read_one = one_of(literal)

    def read(text: str) -> tuple[str, ...]:
        found = names(text)
        if not found:
            raise ValueError("choose at least one of " + ", ".join(get_args(literal)))
        for name in found:
            read_one(name)
        return found

    return read


def names(text: str) -> tuple[str, ...]:
    """Reads names separated by commas, and leaves out repeats."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def number(low: float, high: float = float("inf"), scale: float = 1.0) -> Callable[[str], float]:
    """Reads a number between two bounds, and multiplies it with ``scale``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("give a number") from None
        if not low <= value <= high:
            raise ValueError(f"give a number from {low:g} to {high:g}")
        return value * scale

    return read


def whole(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number between two bounds."""

    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"give a whole number from {low} to {high}")
        return int(text)

    return read


def flag(text: str) -> bool:
    """Reads true or false, in any case."""
    lowered = text.strip().lower()
    if lowered not in {"true", "false"}:
        raise ValueError("give true or false")
    return lowered == "true"


def url(text: str) -> str:
    """Reads an HTTP URL, as it is."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        fits = text.startswith(("http://", "https://")) and host and host.encode("idna") and parts.port != 0
    except ValueError:  # A port that is no number, a bracket that is not closed, a name that no host can have.
        fits = False
    if not fits:
        raise ValueError("give a URL such as http://127.0.0.1:4318")
    return text


def base_url(text: str) -> str:
    """Reads an HTTP URL that paths are put behind, without the slash at its end."""
    return url(text).rstrip("/")


def without_credentials(address: str) -> str:
    """A URL as it may be shown: name and password, which stand before its host, are left out."""
    scheme, separator, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{separator}{place.rpartition('@')[2]}{slash}{path}"


def headers(text: str) -> dict[str, str]:
    """Reads ``key=value`` pairs as OpenTelemetry's OTLP exporter specification has them.

    They are W3C Baggage without metadata: separated by commas, values percent-encoded.
    """
    found = {}
    for part in names(text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError("give key=value pairs separated by commas")
        found[key.strip().lower()] = unquote(value.strip())
    return found
