"""One line of figures; unknown is a dash and never a zero."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llamatelemetry.cli.figures import Figures, format_duration
from llamatelemetry.inference.result import InferenceResult


def shown(result: InferenceResult, width: int = 120, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(Figures(result))
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined] # It is the BytesIO above.


KNOWN = InferenceResult(
    text="",
    finish_reason="stop",
    request_id="r",
    input_tokens=1031,
    output_tokens=64,
    cached_tokens=0,
    ttft_ms=88.2,
    tpot_ms=5.123,
    tps=194.33,
)
UNKNOWN = InferenceResult(text="", finish_reason="stop", request_id="r")


def test_known_figures_carry_their_units() -> None:
    assert shown(KNOWN) == ("TTFT 88.2 ms   TPOT 5.12 ms   tok/s 194.3   tokens in 1,031   out 64   cached 0\n")


def test_unknown_figures_are_dashes() -> None:
    dashes = "TTFT -   TPOT -   tok/s -   tokens in -   out -   cached -\n"
    assert shown(UNKNOWN) == dashes.replace("-", "\N{EN DASH}")
    assert shown(UNKNOWN, encoding="ascii") == dashes


def test_a_narrow_terminal_breaks_between_figures_only() -> None:
    assert shown(KNOWN, 32).splitlines() == [
        "TTFT 88.2 ms   TPOT 5.12 ms",
        "tok/s 194.3   tokens in 1,031",
        "out 64   cached 0",
    ]


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0.00 ms"),
        (50_000, "0.05 ms"),
        (9_990_000, "9.99 ms"),
        (88_200_000, "88.2 ms"),
        (412_300_000, "412 ms"),
        (1_412_100_000, "1.41 s"),
        (123_400_000_000, "123 s"),
    ],
)
def test_durations_keep_what_matters(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


@given(st.integers(0, 10**14))
def test_durations_are_right_to_one_part_in_a_hundred(nanoseconds: int) -> None:
    number, unit = format_duration(nanoseconds).split()
    value = float(number) * {"ms": 1e6, "s": 1e9}[unit]
    assert abs(value - nanoseconds) <= max(nanoseconds / 100, 5_000)
