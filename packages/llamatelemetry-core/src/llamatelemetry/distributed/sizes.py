"""Amounts of memory, read from people and written for them."""

from __future__ import annotations

import re
from typing import Final

from llamatelemetry.errors import InvalidValueError

_UNITS: Final = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
    "T": 2**40,
}
_SIZE: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)")


def parse_size(field: str, text: str) -> int:
    """Bytes of an amount such as ``15GiB``, ``512 MiB``, ``16GB`` or ``1073741824``.

    A unit with an ``i``, or of one letter, counts in powers of 1024, the others in powers of 1000.

    Args:
        field: What it is the amount of, for the error.
        text: The amount.

    Raises:
        InvalidValueError: It is no such amount.
    """
    found = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(found["unit"].upper()) if found else None
    if found is None or unit is None:
        raise InvalidValueError(field, text, "give an amount such as 15GiB, 512MiB or a number of bytes")
    return int(float(found["number"]) * unit)


def format_size(amount: int) -> str:
    """An amount of bytes in the unit it reads best in, with three or more digits that count: ``14.62 GiB``."""
    size, unit = float(amount), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            break
        size, unit = size / 1024, larger
    return f"{amount} B" if unit == "B" else f"{size:.2f} {unit}"


def counted(count: int, noun: str) -> str:
    """A number and what it counts: ``1 slot``, ``4 slots``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
