from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.distributed.cpu_list import format_cpu_list, parse_cpu_list
from llamatelemetry.errors import InvalidValueError


@given(st.sets(st.integers(0, 300)))
def test_what_is_written_is_read_back_and_no_list_is_shorter(cpus: set[int]) -> None:
    text = format_cpu_list(cpus)
    assert parse_cpu_list(text) == tuple(sorted(cpus))
    starts = [cpu for cpu in cpus if cpu - 1 not in cpus]
    assert len(text.split(",")) == max(len(starts), 1)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-7,16-23", (*range(8), *range(16, 24))),
        (" 3 , 1-2,2\n", (1, 2, 3)),
        ("5-5", (5,)),
        ("", ()),
        ("  ", ()),
    ],
)
def test_lists_are_read_as_the_kernel_writes_them_and_as_people_do(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["7-0", "a", "1,,2", "-1", "1-", "0-4294967295", "1.5", "²", "9" * 5000])
def test_what_is_no_list_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidValueError, match="such as 0-7,16-23"):
        parse_cpu_list(text)
