"""``CUDA_VISIBLE_DEVICES``, by the rules of CUDA's programming guide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.gpu.visible import names_by_index, visible_uuids

A, B, C = "GPU-8932f937-d72c", "GPU-8932aaaa-0000", "GPU-11111111-2222"
GPUS = (A, B, C)
M, N = "MIG-aaaa-1", "MIG-aabb-2"
INSTANCES = (M, N)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, GPUS),
        ("", ()),
        (" ", ()),
        ("0", (A,)),
        ("2,1", (C, B)),
        (" 2 , 0 ", (C, A)),
        ("+1", (B,)),
        ("01", (B,)),
        ("-1", ()),
        ("0,2,-1,1", (A, C)),
        ("0,3,1", (A,)),
        ("99999999999999999999", ()),
        ("0,,1", (A,)),
        ("NoDevFiles", ()),
        ("0,none,1", (A,)),
        (A, (A,)),
        (f"{C},{A}", (C, A)),
        ("GPU-8932f", (A,)),
        ("GPU-1", (C,)),
        ("GPU-8932", ()),
        ("GPU-1,GPU-8932,GPU-8932f", (C,)),
        ("GPU-", ()),
        ("GPU-dead,GPU-1", ()),
        (f"{A},0", (A,)),
        (f"0,{B}", (A,)),
        (M, (M,)),
        ("MIG-aab", (N,)),
        ("MIG-aa", ()),
        (f"{N},{M}", (N, M)),
        (f"{M},{A}", (M,)),
        (f"{A},{M}", (A,)),
        ("8932f937-d72c", ()),
    ],
)
def test_the_list_names_devices_until_an_entry_names_none(value: str | None, expected: tuple[str, ...]) -> None:
    assert visible_uuids(value, GPUS, INSTANCES) == expected


def test_digits_count_and_what_follows_them_does_not_as_in_c() -> None:
    assert visible_uuids("1gpu,2 ampere", GPUS) == (B, C)


@pytest.mark.parametrize("value", ["0,0", "1,0,1", f"{A},{A}", f"{A},GPU-8932f", f"{M},{M}"])
def test_a_device_named_twice_makes_all_invisible(value: str) -> None:
    assert visible_uuids(value, GPUS, INSTANCES) == ()


def test_a_whole_uuid_is_not_ambiguous_though_another_begins_with_it() -> None:
    assert visible_uuids("GPU-1", ("GPU-11", "GPU-1")) == ("GPU-1",)


def test_without_gpus_nothing_is_visible_whatever_is_named() -> None:
    assert visible_uuids(None, ()) == visible_uuids("0", ()) == visible_uuids("GPU-1", ()) == ()


@given(st.text(alphabet="0123456789GPUMI-af ,+x", max_size=40))
def test_only_devices_there_are_become_visible_and_each_once(value: str) -> None:
    visible = visible_uuids(value, GPUS, INSTANCES)
    assert set(visible) <= {*GPUS, *INSTANCES}
    assert len(set(visible)) == len(visible)


@given(st.permutations(range(3)), st.integers(0, 3))
def test_indices_keep_their_order(order: list[int], count: int) -> None:
    value = ",".join(map(str, order[:count]))
    assert visible_uuids(value, GPUS) == tuple(GPUS[index] for index in order[:count])


@pytest.mark.parametrize(
    ("value", "counts"), [(None, False), ("", False), ("0", True), (" 1,0", True), ("GPU-1", False), ("-1", False)]
)
def test_a_list_counts_gpus_or_names_them(value: str | None, counts: bool) -> None:  # noqa: FBT001 - a case of a table.
    assert names_by_index(value) is counts
