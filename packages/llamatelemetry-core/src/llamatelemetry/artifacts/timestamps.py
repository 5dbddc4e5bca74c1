"""Moments as RFC 3339 text in UTC, to the nanosecond, without a float on the way."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from llamatelemetry.errors import InvalidManifestError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TEXT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z", re.ASCII)


def format_time(unix_ns: int) -> str:
    """Nanoseconds since the Unix epoch as, for example, ``2026-11-22T12:00:00.000000000Z``.

    Raises:
        InvalidManifestError: The moment is after the year 9999.
    """
    seconds, nanoseconds = divmod(unix_ns, 10**9)
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidManifestError("time", unix_ns, "give nanoseconds since 1970, up to the year 9999") from None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def parse_time(field: str, text: str) -> int:
    """What :func:`format_time` wrote, as nanoseconds since the Unix epoch.

    Raises:
        InvalidManifestError: The text has another form, or no such moment was.
    """
    found = _TEXT.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        moment = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    except ValueError:
        raise InvalidManifestError(field, text, "write it like 2026-11-22T12:00:00.000000000Z") from None
    return (moment - _EPOCH) // timedelta(seconds=1) * 10**9 + int(found[2])
