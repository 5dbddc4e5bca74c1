from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.distributed.sizes import counted, format_size, parse_size
from llamatelemetry.errors import InvalidValueError


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("15GiB", 15 * 2**30),
        ("15 gib", 15 * 2**30),
        ("15G", 15 * 2**30),
        ("16GB", 16 * 10**9),
        ("1.5MiB", 3 * 2**19),
        ("512", 512),
        ("512B", 512),
        ("0", 0),
        ("1.00 GiB", 2**30),
    ],
)
def test_amounts_are_read_in_binary_and_decimal_units(text: str, amount: int) -> None:
    assert parse_size("vram", text) == amount


@pytest.mark.parametrize("text", ["", "much", "-1GiB", "1e9", "15 GiB free", "GiB", "1,5GiB"])
def test_what_is_no_amount_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidValueError, match=r"vram=.* 15GiB") as caught:
        parse_size("vram", text)
    assert (caught.value.field, caught.value.value) == ("vram", text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (5 * 2**30 + 2**29, "5.50 GiB"), (2**41, "2.00 TiB")],
)
def test_amounts_are_written_in_the_unit_they_read_best_in(amount: int, text: str) -> None:
    assert format_size(amount) == text


@given(st.integers(0, 2**50))
def test_what_is_written_is_read_back_to_the_digits_there_are(amount: int) -> None:
    assert parse_size("amount", format_size(amount)) == pytest.approx(amount, rel=0.005, abs=1)


def test_one_of_a_thing_is_not_several() -> None:
    assert (counted(1, "slot"), counted(4, "slot")) == ("1 slot", "4 slots")
