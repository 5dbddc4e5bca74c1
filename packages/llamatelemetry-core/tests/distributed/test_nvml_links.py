from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.distributed.nvml_links import NVLink, NVLinkBond, RemoteKind, bond, generation_of, normal_bus_id

ONE, OTHER, SWITCH = "00000000:0a:00.0", "00000000:0b:00.0", "00000000:c0:00.0"


def links(count: int, remote: RemoteKind, bus_id: str | None, **told: int) -> list[NVLink]:
    return [NVLink(number=number, remote=remote, remote_bus_id=bus_id, **told) for number in range(count)]


ends = st.lists(
    st.builds(
        NVLink,
        number=st.integers(0, 17),
        remote=st.sampled_from(RemoteKind),
        remote_bus_id=st.sampled_from([None, ONE, OTHER, SWITCH]),
        generation=st.sampled_from([None, 3, 4]),
        bytes_per_s=st.sampled_from([None, 25_000_000_000, 26_562_000_000]),
    ),
    max_size=6,
)


@given(one=ends, other=ends)
def test_a_bond_is_the_same_from_both_ends(one: list[NVLink], other: list[NVLink]) -> None:
    assert bond(one, ONE, other, OTHER) == bond(other, OTHER, one, ONE)


@given(one=ends, other=ends)
def test_a_bond_has_links_or_does_not_exist(one: list[NVLink], other: list[NVLink]) -> None:
    made = bond(one, ONE, other, OTHER)
    assert made is None or 0 < made.count <= len(one) + len(other)


def test_direct_links_count_from_the_end_that_tells_of_more() -> None:
    told = links(4, RemoteKind.GPU, OTHER, generation=3, bytes_per_s=25_000_000_000)
    expected = NVLinkBond(count=4, generation=3, bytes_per_s=100_000_000_000)
    assert bond(told, ONE, links(4, RemoteKind.UNKNOWN, None), OTHER) == expected
    assert bond(told, None, [], OTHER) == expected


def test_links_to_switches_reach_every_gpu_that_has_some_too() -> None:
    eighteen = links(18, RemoteKind.SWITCH, SWITCH, generation=4, bytes_per_s=26_562_000_000)
    assert bond(eighteen, ONE, eighteen, OTHER) == NVLinkBond(
        count=18, through_switch=True, generation=4, bytes_per_s=18 * 26_562_000_000
    )
    made = bond(eighteen, ONE, eighteen[:16], OTHER)
    assert made is not None
    assert (made.count, made.bytes_per_s) == (16, 16 * 26_562_000_000)
    assert bond(eighteen, ONE, [], OTHER) is None


def test_links_that_lead_elsewhere_are_none_between_these_two() -> None:
    elsewhere = links(4, RemoteKind.GPU, SWITCH)
    assert bond(elsewhere, ONE, elsewhere, OTHER) is None
    assert bond(elsewhere, None, elsewhere, None) is None


def test_a_sum_of_speeds_needs_them_all() -> None:
    known = links(1, RemoteKind.GPU, OTHER, bytes_per_s=25_000_000_000)
    made = bond([*known, *links(1, RemoteKind.GPU, OTHER)], ONE, [], OTHER)
    assert made == NVLinkBond(count=2)


@pytest.mark.parametrize(
    "spelling", ["00000000:0A:00.0", "0000:0a:00.0", "0A:00.0", b"00000000:0A:00.0", b"00000000:0A:00.0\0\0"]
)
def test_one_address_is_one_in_every_spelling(spelling: str | bytes) -> None:
    assert normal_bus_id(spelling) == "00000000:0a:00.0"


@pytest.mark.parametrize(
    ("code", "capability", "generation"),
    [
        (1, (6, 0), 1),
        (2, (7, 0), 2),
        (3, (7, 5), 2),  # 2.2 in nvml.h,
        (4, (7, 5), 2),  # and in the driver's own header.
        (4, (8, 0), 3),
        (5, (8, 0), 3),
        (5, None, 3),
        (6, (9, 0), 4),
        (7, (9, 0), 4),
        (7, (10, 0), 5),
        (8, (10, 3), 5),
        (7, None, None),
        (7, (12, 0), None),
        (99, (9, 0), None),
        (0, (9, 0), None),
    ],
)
def test_a_version_code_that_two_headers_read_differently_is_decided_by_the_architecture(
    code: int, capability: tuple[int, int] | None, generation: int | None
) -> None:
    assert generation_of(code, capability) == generation
