from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamatelemetry.artifacts.timestamps import format_time, parse_time
from llamatelemetry.errors import InvalidManifestError

LAST_NS = 253_402_300_800 * 10**9 - 1


@given(st.integers(0, LAST_NS))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_nanosecond_reads_back(moment: int) -> None:
    assert parse_time("created_at", format_time(moment)) == moment


def test_the_first_and_the_last_moment_are_written_in_full() -> None:
    assert format_time(0) == "1970-01-01T00:00:00.000000000Z"
    assert format_time(LAST_NS) == "9999-12-31T23:59:59.999999999Z"
    with pytest.raises(InvalidManifestError, match="up to the year 9999"):
        format_time(LAST_NS + 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-22T12:00:00Z",
        "2026-11-22T12:00:00.0Z",
        "2026-11-22 12:00:00.000000000Z",
        "2026-11-22T12:00:00.000000000+00:00",
        "2026-02-30T12:00:00.000000000Z",
        "2026-11-22T24:00:00.000000000Z",
        "٢026-11-22T12:00:00.000000000Z",
    ],
)
def test_another_form_and_a_day_that_never_was_are_refused(text: str) -> None:
    with pytest.raises(InvalidManifestError, match="write it like"):
        parse_time("created_at", text)
