"""The backend's slots: which are idle, and which prompt's beginning each still holds.

A slot that is given a prompt it knows the beginning of has only the rest to compute. Idle slots that
hold something are kept in the order of what they hold; a prompt's longest common prefix is then with
one of its two neighbours, found by bisection. Groups with an idle slot are kept in the order of how
busy they are, so that a thousand of them are no more to look at than one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from llamatelemetry.errors import IntegrityError, InvalidValueError
from llamatelemetry.inference.tokens import TOKEN_BYTES, PackedTokens, common_prefix

_NOTHING: Final = PackedTokens(b"")

_Offer = tuple[float, int, int]
"""How busy a group is, when its slot became idle, and the slot."""


class SlotTable:
    """Which slots are idle and what they hold. Not thread-safe.

    Args:
        sizes: Slots of each group, one group for each backend; slots are numbered from 0 through all.

    Attributes:
        slots: Number of slots in all.
        group_of: The group of each slot.

    Raises:
        InvalidValueError: There is no group, or one without slots.
    """

    def __init__(self, *sizes: int) -> None:
        if min(sizes, default=0) < 1:
            raise InvalidValueError("slots", sizes, "give at least 1")
        self.slots: Final = sum(sizes)
        self._sizes: Final = sizes
        self.group_of: Final = tuple(group for group, size in enumerate(sizes) for _ in range(size))
        # In each group longest idle first; the number tells when each one became so.
        self._idle: list[OrderedDict[int, int]] = [OrderedDict() for _ in sizes]
        for slot, group in enumerate(self.group_of):
            self._idle[group][slot] = slot
        self._withdrawn: set[int] = set()
        self._vacated = self.slots
        self._held = [_NOTHING] * self.slots
        self._by_content: list[tuple[PackedTokens, int]] = []
        # For each group on offer the slot to take of it, and how used that is; the least first.
        self._offer_of = [self._offer(group) for group in range(len(sizes))]
        self._offers: list[_Offer] = sorted(offer for offer in self._offer_of if offer is not None)

    @property
    def idle(self) -> bool:
        """Whether any slot is idle and on offer."""
        return bool(self._offers)

    def size(self, group: int) -> int:
        """Slots of a group."""
        return self._sizes[group]

    def busy(self, group: int) -> int:
        """Slots of a group that are not idle."""
        return self._sizes[group] - len(self._idle[group])

    def occupied(self) -> list[int]:
        """The slots that are not idle, ascending."""
        return [slot for slot, group in enumerate(self.group_of) if slot not in self._idle[group]]

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

        Of several, one of the group whose slots are least busy, there the one used least recently. It
        takes time in proportion to how many hold that prefix.

        Args:
            tokens: Packed prompt; None chooses without regard to what slots hold.

        Raises:
            IntegrityError: No slot is idle.
        """
        if not self._offers:
            raise IntegrityError("SlotTable", "a slot was asked for and none is idle")
        longest = self.longest_prefix(tokens)
        if not tokens or not longest:
            return self._offers[0][2], 0
        order, prefix = self._by_content, tokens[: longest * TOKEN_BYTES]
        place = bisect_left(order, (prefix,))
        best = order[place][1]
        while place < len(order) and order[place][0].startswith(prefix):
            slot = order[place][1]
            if self._use_of(slot) < self._use_of(best):
                best = slot
            place += 1
        return best, longest

    def others(self, slot: int) -> Iterator[int]:
        """The slots to take instead: one of each other group on offer, the least busy group first."""
        group = self.group_of[slot]
        return (other for _, _, other in self._offers if self.group_of[other] != group)

    def known(self, slot: int, tokens: PackedTokens | None) -> int:
        """Tokens that ``tokens`` begins with and the slot holds."""
        return common_prefix(tokens, self._held[slot]) if tokens else 0

    def occupy(self, slot: int) -> None:
        """Notes that a request runs on the slot; what it held is about to be overwritten.

        Raises:
            IntegrityError: It is not idle, or not on offer.
        """
        group = self.group_of[slot]
        if group in self._withdrawn or self._idle[group].pop(slot, None) is None:
            raise IntegrityError("SlotTable", f"slot {slot} was occupied and is not on offer")
        self._forget(slot)
        self._offer_anew(group)

    def vacate(self, slot: int, tokens: PackedTokens | None) -> None:
        """Notes that the slot is idle again.

        Args:
            slot: The slot.
            tokens: What it holds now, packed; None if that is not known.

        Raises:
            IntegrityError: It was idle already.
        """
        if not 0 <= slot < self.slots or slot in self._idle[self.group_of[slot]]:
            raise IntegrityError("SlotTable", f"slot {slot} was vacated twice")
        group = self.group_of[slot]
        self._idle[group][slot] = self._vacated
        self._vacated += 1
        if tokens and group not in self._withdrawn:
            self._held[slot] = tokens
            order = self._by_content
            order.insert(bisect_left(order, (tokens, slot)), (tokens, slot))
        self._offer_anew(group)

    def withdraw(self, group: int) -> None:
        """Takes a group off offer, as when its backend is gone, and forgets what its slots held; idempotent."""
        self._withdrawn.add(group)
        for slot in self._idle[group]:
            self._forget(slot)
        self._offer_anew(group)

    def restore(self, group: int) -> None:
        """Puts a group back on offer; its slots hold nothing."""
        self._withdrawn.discard(group)
        self._offer_anew(group)

    def _forget(self, slot: int) -> None:
        held = self._held[slot]
        if held:
            self._held[slot] = _NOTHING
            del self._by_content[bisect_left(self._by_content, (held, slot))]

    def _offer(self, group: int) -> _Offer | None:
        idle = self._idle[group]
        if not idle or group in self._withdrawn:
            return None
        slot = next(iter(idle))
        return 1 - len(idle) / self._sizes[group], idle[slot], slot

    def _offer_anew(self, group: int) -> None:
        offers, before, now = self._offers, self._offer_of[group], self._offer(group)
        self._offer_of[group] = now
        if before is not None:
            del offers[bisect_left(offers, before)]
        if now is not None:
            insort(offers, now)

    def _use_of(self, slot: int) -> tuple[float, int]:
        """How busy an idle slot's group is, then how lately the slot was."""
        group = self.group_of[slot]
        idle = self._idle[group]
        return 1 - len(idle) / self._sizes[group], idle[slot]

    def check_integrity(self) -> None:
        """Proves that idle slots, and they alone, are on offer with what they hold.

        Raises:
            IntegrityError: Names what is broken.
        """
        for group, idle in enumerate(self._idle):
            if any(self.group_of[slot] != group for slot in idle):
                raise IntegrityError("SlotTable", f"group {group} has slots of another: {list(idle)}")
            ages = list(idle.values())
            if ages != sorted(set(ages)):
                raise IntegrityError("SlotTable", f"idle slots are not in the order they were vacated in: {ages}")
        offered = sorted((held, slot) for slot, held in enumerate(self._held) if held)
        if offered != self._by_content:
            raise IntegrityError("SlotTable", "the order by content is not that of what the slots hold")
        offers = [self._offer(group) for group in range(len(self._sizes))]
        if self._offer_of != offers or self._offers != sorted(offer for offer in offers if offer is not None):
            raise IntegrityError("SlotTable", "the groups on offer are not those with idle slots")
        for _, slot in offered:
            group = self.group_of[slot]
            if slot not in self._idle[group] or group in self._withdrawn:
                raise IntegrityError("SlotTable", f"slot {slot} holds something and is not on offer")
