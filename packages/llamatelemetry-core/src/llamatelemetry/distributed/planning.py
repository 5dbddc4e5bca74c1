"""A plan for what is asked for; or why there is none, and what there could be instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from llamatelemetry.distributed.placement import Placement, Wish, place
from llamatelemetry.distributed.serving import CELL_PADDING, pad
from llamatelemetry.distributed.sizes import counted
from llamatelemetry.errors import InvalidValueError

_SMALLER_TYPES: Final = ("q8_0", "q4_0")


@dataclass(frozen=True, slots=True, kw_only=True)
class WayOut:
    """Something that would fit where what was asked for does not.

    Attributes:
        change: What to change, in words.
        arguments: The same as arguments of ``llamatelemetry plan``.
        headroom_bytes: What would stay free on the fullest GPU then; None if none is used.
    """

    change: str
    arguments: tuple[str, ...]
    headroom_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """It does not fit.

    Attributes:
        attempt: The nearest there is to fitting.
        short_bytes: What that misses, on all GPUs together.
        ways_out: What would fit; empty if nothing would that was looked at.
    """

    attempt: Placement
    short_bytes: int
    ways_out: tuple[WayOut, ...]


def plan(wish: Wish) -> Placement | Refusal:
    """Where everything goes, or a refusal.

    Raises:
        InvalidValueError: The cache cannot keep this model's rows in the wanted type.
    """
    placement = place(wish)
    if not placement.short_bytes:
        return placement
    return Refusal(attempt=placement, short_bytes=placement.short_bytes, ways_out=tuple(_ways_out(wish)))


def _ways_out(wish: Wish) -> Iterator[WayOut]:
    """Changes that would each be enough alone, the least painful first."""
    serving = wish.serving

    def with_slots(slots: int) -> Wish:
        return replace(wish, serving=replace(serving, slots=slots))

    def with_context(length: int) -> Wish:
        return replace(wish, serving=replace(serving, context_length=length))

    smaller = (_smaller_cache(wish, kind) for kind in _SMALLER_TYPES)
    yield from [way for way in smaller if way is not None][:1]
    if slots := _most(serving.slots - 1, lambda count: _fits(with_slots(count))):
        change = f"{counted(slots, 'slot')} of {serving.context_length} tokens instead of {serving.slots}"
        yield _way(with_slots(slots), change, "--slots", str(slots))
    steps = pad(serving.context_length) // CELL_PADDING - 1
    if steps := _most(steps, lambda count: _fits(with_context(count * CELL_PADDING))):
        length = steps * CELL_PADDING
        change = f"contexts of {length} tokens instead of {serving.context_length}"
        yield _way(with_context(length), change, "--ctx", str(length))
    if wish.leave:
        everywhere = replace(wish, leave=frozenset())
        if _fits(everywhere):
            left = ", ".join(map(str, sorted(wish.leave)))
            yield _way(everywhere, f"all GPUs: {left} left out no more")
    fewer = replace(wish, gpu_layers="auto")
    count = place(fewer).gpu_layers
    layers = f"{count} of {len(wish.shape.layers) + 1} layers on GPUs, the others on the CPU: slower"
    yield _way(fewer, layers if count else "everything on the CPU: much slower", "--gpu-layers", "auto")


def _smaller_cache(wish: Wish, kind: str) -> WayOut | None:
    serving = wish.serving
    if kind in {serving.key_type, serving.value_type} or not serving.flash_attention:
        return None
    smaller = replace(wish, serving=replace(serving, key_type=kind, value_type=kind))
    try:
        fits = _fits(smaller)
    except InvalidValueError:  # Rows that do not come in its blocks.
        return None
    if not fits:
        return None
    return _way(smaller, f"a KV cache in {kind} instead of {serving.key_type}", "--kv", kind)


def _way(wish: Wish, change: str, *arguments: str) -> WayOut:
    return WayOut(change=change, arguments=arguments, headroom_bytes=place(wish).headroom_bytes)


def _fits(wish: Wish) -> bool:
    return not place(wish).short_bytes


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The most that fits, from 1 to a limit; 0 for nothing. What fits, fits in a smaller number too."""
    low, high = 0, max(limit, 0)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
