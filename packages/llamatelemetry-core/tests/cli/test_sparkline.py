"""Bars and curves of text: as long as they should be, and never the wrong way up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.cli.sparkline import bar, binned, sparkline

SHARES = st.floats(min_value=-1, max_value=2)
CELLS = st.integers(min_value=1, max_value=80)
POINTS = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=10**12),
        st.none() | st.floats(min_value=-1e6, max_value=1e6),
    )
)


def test_a_curve_goes_from_the_lowest_to_the_highest_block_and_leaves_gaps() -> None:
    assert sparkline([0, 0.2, 0.5, 0.99, 1, None, 0.1]) == "▁▂▅██ ▁"
    assert sparkline([0, 0.2, 0.5, 0.99, 1, None, 0.1], ascii_only=True) == "_.=## _"


def test_a_bar_is_drawn_to_half_a_cell_over_its_whole_length() -> None:
    assert [bar(share, 4) for share in (0, 0.125, 0.5, 0.9, 1)] == ["────", "╸───", "━━──", "━━━╸", "━━━━"]
    assert bar(0.625, 4, ascii_only=True) == "==--"


@given(shares=st.lists(st.none() | SHARES), plain=st.booleans())
def test_each_share_is_one_cell_and_a_gap_alone_is_blank(shares: list[float | None], *, plain: bool) -> None:
    drawn = sparkline(shares, ascii_only=plain)
    assert [cell == " " for cell in drawn] == [share is None for share in shares]
    assert drawn.isascii() or not plain


@given(SHARES, SHARES)
def test_a_larger_share_is_never_drawn_lower(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert sparkline([low]) <= sparkline([high])
    assert bar(low, 10).count("━") <= bar(high, 10).count("━")


@given(share=SHARES, cells=CELLS, plain=st.booleans())
def test_a_bar_has_its_length_whatever_the_share(share: float, cells: int, *, plain: bool) -> None:
    assert len(bar(share, cells, ascii_only=plain)) == cells


@given(POINTS, st.integers(min_value=0, max_value=10**12), CELLS)
def test_bins_hold_means_of_the_values_within_the_span(
    points: list[tuple[int, float | None]], end_ns: int, cells: int
) -> None:
    span_ns = 10**11
    bins = binned(points, end_ns=end_ns, span_ns=span_ns, cells=cells)
    assert len(bins) == cells
    width_ns = -(-span_ns // cells)
    start_ns = (end_ns // width_ns - cells + 1) * width_ns
    within = [value for moment, value in points if value is not None and 0 <= moment - start_ns < cells * width_ns]
    means = [mean for mean in bins if mean is not None]
    assert bool(means) == bool(within)
    if within:
        rounding = 1e-6
        assert min(within) - rounding <= min(means)
        assert max(means) <= max(within) + rounding


@given(POINTS, st.integers(min_value=10**11, max_value=10**12), CELLS, st.integers(min_value=1, max_value=10))
def test_a_curve_moves_on_by_whole_cells_and_what_it_showed_stays(
    points: list[tuple[int, float | None]], end_ns: int, cells: int, steps: int
) -> None:
    span_ns = 10**11
    before = binned(points, end_ns=end_ns, span_ns=span_ns, cells=cells)
    width_ns = -(-span_ns // cells)
    later = binned(points, end_ns=end_ns + steps * width_ns, span_ns=span_ns, cells=cells)
    assert list(before[steps:]) == list(later[: max(0, cells - steps)])


def test_a_value_that_nobody_told_is_no_zero() -> None:
    assert binned([(0, None), (5, 2.0), (6, 4.0)], end_ns=29, span_ns=30, cells=3) == [3.0, None, None]
