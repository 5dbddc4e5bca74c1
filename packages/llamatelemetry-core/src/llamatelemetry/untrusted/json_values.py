"""JSON that somebody else wrote, parsed with limits on what it may cost.

The parser of the standard library makes objects of up to thirty times the size of their text, and
goes as deep as the stack allows. So brackets, commas and quotes are counted first, which is cheap
and says how many objects there would be.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, NoReturn

from llamatelemetry.errors import ModelFileError
from llamatelemetry.untrusted.files import read_bounded

__all__ = ["parse_json", "read_json", "read_object"]

_MOST_BYTES: Final = 2**20
_MOST_VALUES: Final = 2**16
"""Of a ``config.json``; those of real models have a few kilobytes, and some hundred values."""
_MOST_LEVELS: Final = 32
_QUOTES_PER_VALUE: Final = 4
"""Those of its key, and its own."""
_HALF: Final = re.compile(rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL)
"""An escaped surrogate that has not its other one beside it."""
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{},"'))


def parse_json(data: bytes, *, most_values: int) -> Any:
    """The value that a JSON text stands for.

    Args:
        data: The text, in UTF-8.
        most_values: Most values it may have, counting those inside others.

    Raises:
        ValueError: It is not JSON, nests too deep, has too many values or half a character, which nothing can
            write; the message says which.
    """
    structure = _structure(data, most_quotes=_QUOTES_PER_VALUE * most_values)
    values = 1 + structure.count(b",") + structure.count(b"[") + structure.count(b"{")
    if values > most_values:
        raise ValueError(f"has about {values} values, and {most_values} is the limit")
    brackets = structure.translate(None, b",")
    for _ in range(_MOST_LEVELS):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if brackets:
        deep = f"nests deeper than {_MOST_LEVELS} levels, which no model needs"
        raise ValueError(f"{deep}, or is not JSON: a bracket is left open")
    # Searched twice because few texts have one, and copying a large one for its backslashes costs.
    if _HALF.search(data) and _HALF.search(data.replace(b"\\\\", b"--")):
        raise ValueError("is not Unicode: it escapes half a character, a surrogate without its other one")
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:  # RecursionError: the caller's stack may be nearly full.
        raise ValueError(f"is not JSON: {error}") from error


def read_json(path: Path, *, most_bytes: int = _MOST_BYTES, most_values: int = _MOST_VALUES) -> Any:
    """The value that a JSON file holds.

    Args:
        path: The file.
        most_bytes: Most bytes it may have; as a model's configuration needs, unless told.
        most_values: Most values it may have, counting those inside others; likewise.

    Raises:
        ModelFileError: It cannot be read, is larger than allowed, or is not JSON.
    """
    data = read_bounded(path, most_bytes)
    try:
        return parse_json(data, most_values=most_values)
    except ValueError as error:
        raise ModelFileError(path, str(error)) from error


def read_object(path: Path, *, most_bytes: int = _MOST_BYTES, most_values: int = _MOST_VALUES) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file.
        most_bytes: Most bytes it may have; as a model's configuration needs, unless told.
        most_values: Most values it may have, counting those inside others; likewise.

    Raises:
        ModelFileError: It cannot be read, is larger than allowed, or is not a JSON object.
    """
    found = read_json(path, most_bytes=most_bytes, most_values=most_values)
    if not isinstance(found, dict):
        raise ModelFileError(path, "is not a JSON object")
    return found


def _structure(data: bytes, *, most_quotes: int) -> bytes:
    """The brackets and commas of a JSON text, without those in its texts.

    Where the text is not JSON, what this returns is right up to the place where a parser stops.
    """
    quoted = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE)
    quotes = quoted.count(b'"')
    if quotes > most_quotes:
        raise ValueError(f"has {quotes} quotes, and {most_quotes} is the limit")
    structure = quoted.replace(b'""', b"")
    # Few texts have brackets or commas in them, and splitting makes objects of its own.
    return b"".join(structure.split(b'"')[::2]) if b'"' in structure else structure


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
