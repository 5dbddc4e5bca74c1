"""The backend's slots: which are idle, and which prompt's beginning each still holds.

A slot that is given a prompt it knows the beginning of has only the rest to compute. Idle slots that
hold something are kept in the order of what they hold; a prompt's longest common prefix is then with
one of its two neighbours, found by bisection.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from typing import Final

from llamatelemetry.errors import IntegrityError, InvalidValueError
from llamatelemetry.inference.tokens import TOKEN_BYTES, PackedTokens, common_prefix

_NOTHING: Final = PackedTokens(b"")


class SlotTable:
    """Which slots are idle and what they hold. Not thread-safe.

    Args:
        slots: Slots there are, numbered from 0.

    Raises:
        InvalidValueError: There is none.
    """

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise InvalidValueError("slots", slots, "give at least 1")
        self.slots: Final = slots
        # Longest idle first; the number tells when each one became so.
        self._idle: OrderedDict[int, int] = OrderedDict((slot, slot) for slot in range(slots))
        self._vacated = slots
        self._held = [_NOTHING] * slots
        self._by_content: list[tuple[PackedTokens, int]] = []

    @property
    def idle(self) -> int:
        """Number of idle slots."""
        return len(self._idle)

    @property
    def know_prefixes(self) -> bool:
        """Whether any idle slot is known to hold something."""
        return bool(self._by_content)

    def longest_prefix(self, tokens: PackedTokens | None, beyond: int = 0) -> int:
        """Most tokens that ``tokens`` begins with and an idle slot holds; 0 if not more than ``beyond``."""
        order = self._by_content
        if not tokens:
            return 0
        wanted = tokens[: (beyond + 1) * TOKEN_BYTES]
        place = bisect_left(order, (wanted,))
        if len(tokens) <= beyond * TOKEN_BYTES or place == len(order) or not order[place][0].startswith(wanted):
            return 0
        place = bisect_left(order, (tokens,), place)
        longest = common_prefix(tokens, order[place][0]) if place < len(order) else 0
        if place:
            longest = max(longest, common_prefix(tokens, order[place - 1][0]))
        return longest

    def choose(self, tokens: PackedTokens | None) -> tuple[int, int]:
        """The idle slot that holds the longest prefix of ``tokens``, and how long that is.

        Of several, the one used least recently; it takes time in proportion to how many there are.

        Args:
            tokens: Packed prompt; None chooses the slot used least recently.

        Raises:
            IntegrityError: No slot is idle.
        """
        if not self._idle:
            raise IntegrityError("SlotTable", "a slot was asked for and none is idle")
        longest = self.longest_prefix(tokens)
        if not tokens or not longest:
            return next(iter(self._idle)), 0
        order, prefix = self._by_content, tokens[: longest * TOKEN_BYTES]
        place = bisect_left(order, (prefix,))
        best = order[place][1]
        while place < len(order) and order[place][0].startswith(prefix):
            slot = order[place][1]
            if self._idle[slot] < self._idle[best]:
                best = slot
            place += 1
        return best, longest

    def occupy(self, slot: int) -> None:
        """Notes that a request runs on the slot; what it held is about to be overwritten.

        Raises:
            IntegrityError: It is not idle.
        """
        if self._idle.pop(slot, None) is None:
            raise IntegrityError("SlotTable", f"slot {slot} was occupied twice")
        held = self._held[slot]
        if held:
            self._held[slot] = _NOTHING
            del self._by_content[bisect_left(self._by_content, (held, slot))]

    def vacate(self, slot: int, tokens: PackedTokens | None) -> None:
        """Notes that the slot is idle again.

        Args:
            slot: The slot.
            tokens: What it holds now, packed; None if that is not known.

        Raises:
            IntegrityError: It was idle already.
        """
        if slot in self._idle or not 0 <= slot < self.slots:
            raise IntegrityError("SlotTable", f"slot {slot} was vacated twice")
        self._idle[slot] = self._vacated
        self._vacated += 1
        if tokens:
            self._held[slot] = tokens
            order = self._by_content
            order.insert(bisect_left(order, (tokens, slot)), (tokens, slot))

    def check_integrity(self) -> None:
        """Proves that idle slots, and they alone, are on offer with what they hold.

        Raises:
            IntegrityError: Names what is broken.
        """
        for slot in self._idle:
            if not 0 <= slot < self.slots:
                raise IntegrityError("SlotTable", f"slot {slot} does not exist")
        ages = list(self._idle.values())
        if ages != sorted(set(ages)):
            raise IntegrityError("SlotTable", f"idle slots are not in the order they were vacated in: {ages}")
        offered = sorted((held, slot) for slot, held in enumerate(self._held) if held)
        if offered != self._by_content:
            raise IntegrityError("SlotTable", "the order by content is not that of what the slots hold")
        for _, slot in offered:
            if slot not in self._idle:
                raise IntegrityError("SlotTable", f"slot {slot} is occupied and on offer")
