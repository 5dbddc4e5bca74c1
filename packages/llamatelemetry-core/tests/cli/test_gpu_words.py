"""How figures of GPUs are written, and the footnotes of those that are absent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.cli.gpu_words import Notes, format_energy, short_uuid

DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("joules", "written"),
    [
        (0, "0.00 J"),
        (9.994, "9.99 J"),
        (9.996, "10.0 J"),
        (999.4, "999 J"),
        (999.6, "1.00 kJ"),
        (123_456, "123 kJ"),
        (7.2e6, "7.20 MJ"),
        (5e12, "5000 GJ"),
    ],
)
def test_energy_is_written_in_three_digits(joules: float, written: str) -> None:
    assert format_energy(joules) == written


@given(st.floats(min_value=0, max_value=9e11))
def test_energy_as_written_is_what_it_is_to_half_a_digit(joules: float) -> None:
    number, symbol = format_energy(joules).split()
    scale = {"J": 1.0, "kJ": 1e3, "MJ": 1e6, "GJ": 1e9}[symbol]
    assert float(number) * scale == pytest.approx(joules, rel=0.006, abs=0.006)
    assert len(number.replace(".", "")) == 3


def test_a_reason_has_one_footnote_that_names_all_it_is_the_reason_of() -> None:
    notes = Notes(ascii_only=False)
    marks = [
        notes.mark("sm_clock_mhz", "asleep"),
        notes.mark("memory_clock_mhz", "asleep"),
        notes.mark("power_w", "no sensor"),
        notes.mark("temperature_c", "asleep"),
    ]
    assert marks == [f"{DASH}¹", f"{DASH}¹", f"{DASH}²", f"{DASH}¹"]
    assert [line.plain for line in notes.lines()] == ["¹ clocks, temperature: asleep", "² power: no sensor"]


def test_footnotes_are_told_once_where_lines_go_on_and_on() -> None:
    notes = Notes(ascii_only=True)
    assert notes.mark("power_w", "no sensor") == "-(1)"
    assert [line.plain for line in notes.lines()] == ["(1) power: no sensor"]
    assert notes.mark("power_w", "no sensor") == "-(1)"
    assert notes.mark("energy_j", "no counter") == "-(2)"
    assert [line.plain for line in notes.lines()] == ["(2) energy: no counter"]


def test_more_than_nine_footnotes_are_counted_on() -> None:
    notes = Notes(ascii_only=False)
    assert [notes.mark("power_w", f"reason {number}") for number in range(12)][-1] == f"{DASH}¹²"


def test_a_uuid_is_as_long_as_it_must_be_to_name_one_gpu() -> None:
    one, alike, other = "GPU-12345678-a", "GPU-12345678-b", "GPU-87654321-a"
    assert short_uuid(one, [one, other]) == "GPU-12345678"
    assert short_uuid(one, [one, alike, other]) == one
    assert short_uuid(other, [one, alike, other]) == "GPU-87654321"
