"""Bars and small curves of text, and the bins that a curve's cells are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_LEVELS: Final = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS: Final = "_.-:=+*#"


def sparkline(shares: Iterable[float | None], *, ascii_only: bool = False) -> str:
    """A curve, one character for each share.

    Args:
        shares: From 0 to 1, oldest first; what is beyond is drawn as the nearest. None is a gap.
        ascii_only: The terminal knows ASCII only.
    """
    levels = _ASCII_LEVELS if ascii_only else _LEVELS
    return "".join(" " if share is None else levels[_level(share, len(levels))] for share in shares)


def bar(share: float, cells: int, *, ascii_only: bool = False) -> str:
    """A line that is thick as far as the share goes, to half a cell.

    Args:
        share: From 0 to 1; what is beyond is drawn as the nearest.
        cells: Length of the whole line.
        ascii_only: The terminal knows ASCII only.
    """
    both, left, rest = "=--" if ascii_only else "━╸─"
    halves = round(min(max(share, 0.0), 1.0) * 2 * cells)
    drawn = both * (halves // 2) + left * (halves % 2)
    return drawn + rest * (cells - len(drawn))


def binned(
    points: Iterable[tuple[int, float | None]], *, end_ns: int, span_ns: int, cells: int
) -> Sequence[float | None]:
    """Means of the points that fall into each of some equal stretches of time.

    A stretch begins at a multiple of its length, so that a curve that is drawn again and again moves
    on cell by cell and what it showed stays as it was.

    Args:
        points: Moments in nanoseconds, and values; None is no value.
        end_ns: A moment within the last stretch.
        span_ns: Nanoseconds that all stretches cover together, about.
        cells: How many stretches.

    Returns:
        The mean of each, oldest first; None where there is no value.
    """
    width_ns = -(-span_ns // cells)
    first = end_ns // width_ns - cells + 1
    found: list[list[float]] = [[] for _ in range(cells)]
    for moment_ns, value in points:
        place = moment_ns // width_ns - first
        if value is not None and 0 <= place < cells:
            found[place].append(value)
    return [sum(values) / len(values) if values else None for values in found]


def _level(share: float, levels: int) -> int:
    return min(max(int(share * levels), 0), levels - 1)
