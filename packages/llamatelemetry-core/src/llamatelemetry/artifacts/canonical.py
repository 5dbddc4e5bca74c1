"""One way to write each JSON value, so that equal content has equal bytes and one digest.

The form is RFC 8785 (JSON Canonicalization Scheme): no white space, names in the order of their
UTF-16 code units, numbers as ECMAScript writes them, text in UTF-8 with the fewest escapes. What
that form cannot carry unchanged is refused: numbers that are not finite, integers beyond 2**53,
text with half a surrogate pair.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llamatelemetry.errors import InvalidManifestError

MAX_DEPTH: Final = 32
"""Objects and arrays that may stand inside each other."""
_MAX_INTEGER: Final = 2**53 - 1
_MAX_DIGITS: Final = 32
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def canonical_json(value: Any, *, field: str = "value") -> bytes:
    """The one form of a JSON value.

    Args:
        value: Mappings, sequences, text, numbers, booleans and None, in any nesting up to :data:`MAX_DEPTH`.
        field: Where the value stands, for errors.

    Raises:
        InvalidManifestError: Something in it has no such form; the error names its path.
    """
    parts: list[str] = []
    _write(value, field, 0, parts)
    return "".join(parts).encode()


def whole_number(digits: str) -> int | float:
    """What the digits of a JSON number without point or exponent stand for: past 2**53 - 1, a float's.

    ECMAScript writes a float without an exponent up to 1e21, so such digits were no integer.

    Raises:
        ValueError: There are more digits than any number in canonical form has.
    """
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    number = int(digits)
    return number if abs(number) <= _MAX_INTEGER else float(number)


def sha256_of_json(value: Any, *, field: str = "value") -> str:
    """SHA-256 of a value's canonical form, in lower-case hexadecimal.

    Raises:
        InvalidManifestError: It has none.
    """
    return hashlib.sha256(canonical_json(value, field=field)).hexdigest()


def _write(value: Any, field: str, depth: int, parts: list[str]) -> None:
    match value:
        case None | bool():
            parts.append({None: "null", True: "true", False: "false"}[value])
        case str():
            parts.append(_text(value, field))
        case int():
            if abs(value) > _MAX_INTEGER:
                raise InvalidManifestError(field, value, "integers go up to 2**53 - 1; write a larger one as text")
            parts.append(str(int(value)))
        case float():
            parts.append(_number(value, field))
        case Mapping():
            _write_object(value, field, depth, parts)
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            _check_depth(field, depth)
            parts.append("[")
            for index, item in enumerate(value):
                parts.append("," if index else "")
                _write(item, f"{field}[{index}]", depth + 1, parts)
            parts.append("]")
        case _:
            raise InvalidManifestError(field, value, "JSON has text, numbers, booleans, null, lists and objects")


def _write_object(value: Mapping[Any, Any], field: str, depth: int, parts: list[str]) -> None:
    _check_depth(field, depth)
    for name in value:
        if not isinstance(name, str):
            raise InvalidManifestError(field, name, "names in an object are text")
        _text(name, field)  # Before sorting, which has no order for what it refuses.
    parts.append("{")
    for index, name in enumerate(sorted(value, key=lambda name: name.encode("utf-16-be"))):
        parts.append(("," if index else "") + _text(name, field) + ":")
        _write(value[name], f"{field}.{name}", depth + 1, parts)
    parts.append("}")


def _check_depth(field: str, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise InvalidManifestError(field[:80], "...", f"nest at most {MAX_DEPTH} objects and lists")


def _text(value: str, field: str) -> str:
    if _SURROGATE.search(value):
        raise InvalidManifestError(field, value, "text is Unicode, without half a surrogate pair")
    return json.dumps(value, ensure_ascii=False)


def _number(value: float, field: str) -> str:
    """A number as ECMAScript writes it: its shortest digits, with an exponent from 1e21 and below 1e-6."""
    if not math.isfinite(value):
        raise InvalidManifestError(field, value, "numbers are finite")
    if value == 0:
        return "0"
    sign, digits, exponent = _shortest(value)
    point = len(digits) + exponent
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        text = f"{digits[0]}{fraction}e{point - 1:+d}"
    return sign + text


def _shortest(value: float) -> tuple[str, str, int]:
    """Sign, the shortest digits that read back as the number, and the power of ten they count."""
    mantissa, _, power = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    exponent = int(power or 0) - len(fraction)
    shortened = digits.rstrip("0")
    return "-" if value < 0 else "", shortened, exponent + len(digits) - len(shortened)
