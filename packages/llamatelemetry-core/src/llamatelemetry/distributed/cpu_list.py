"""CPU lists such as ``0-7,16-23``: how the kernel, ``taskset`` and ``nvidia-smi`` write sets of CPUs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Final

from llamatelemetry.errors import InvalidValueError

_WIDEST_RANGE: Final = 1 << 20
"""CPUs that one range may name; more is a slip of the hand, and would fill the memory."""


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The CPUs that a list names.

    Args:
        text: Numbers and ranges with commas between them, in any order; empty for none.

    Returns:
        Their numbers, each once, ascending.

    Raises:
        InvalidValueError: The text is no such list.
    """
    if not text.strip():
        return ()
    return tuple(sorted(set(chain.from_iterable(_range(item.strip(), text) for item in text.split(",")))))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The shortest list that names these CPUs.

    Args:
        cpus: Their numbers, in any order.

    Returns:
        Ascending ranges with commas between them; empty for no CPU.
    """
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _range(item: str, text: str) -> range:
    first, dash, last = item.partition("-")
    numbers = (first, last if dash else first)
    if all(number.isascii() and number.isdigit() and len(number) < 10 for number in numbers):
        start, end = map(int, numbers)
        if start <= end < start + _WIDEST_RANGE:
            return range(start, end + 1)
    raise InvalidValueError("cpu_list", text, "give CPUs and ascending ranges of them, such as 0-7,16-23")
