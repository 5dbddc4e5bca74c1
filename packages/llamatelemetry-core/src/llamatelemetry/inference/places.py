"""Where requests run: the slots of every backend and the KV pages behind them, as one.

The scheduler says who is next; this module says whether there is a place, and which is the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from llamatelemetry.errors import IntegrityError
from llamatelemetry.inference.decisions import GroupStats, Ticket
from llamatelemetry.inference.kv_cache import PagedKVCache, Reservation
from llamatelemetry.inference.slots import SlotTable
from llamatelemetry.inference.tokens import PackedTokens


@dataclass(frozen=True, slots=True)
class SlotGroup:
    """One backend, as far as the scheduler sees it.

    Attributes:
        slots: Requests it runs at once.
        kv: Pages to reserve for what runs there; None does not count them.
        shared_pages: Whether its slots share pages of equal prefixes.
    """

    slots: int
    kv: PagedKVCache | None = None
    shared_pages: bool = False


class Place(NamedTuple):
    """What one running request has: a slot, the prompt tokens it should find there, its pages, and whose they are."""

    slot: int
    known: int
    reservation: Reservation | None
    kv: PagedKVCache | None


@dataclass(slots=True)
class _Cached:
    prompt: int = 0
    reported: int = 0
    estimated: int = 0


class Places:
    """Gives places to requests and takes them back. Not thread-safe.

    Args:
        groups: The backends. Slots are numbered from 0 through all of them.
        shared_pages: Whether the slots of every backend share pages of equal prefixes, whatever it says.
    """

    def __init__(self, groups: Sequence[SlotGroup], *, shared_pages: bool) -> None:
        self.slots: Final = SlotTable(*(group.slots for group in groups))
        self._shared_pages = [shared_pages or group.shared_pages for group in groups]
        self._kv = [group.kv for group in groups]
        self._cached = [_Cached() for _ in groups]

    @property
    def capacity_tokens(self) -> int | None:
        """Tokens that fit any group; None if pages are counted in none."""
        return min((kv.capacity_tokens for kv in self._kv if kv is not None), default=None)

    def take(self, ticket: Ticket, cost: int) -> Place | None:
        """The best place for a request: on the slot that knows most of its prompt, or where there are pages.

        Args:
            ticket: The request. Some slot must be idle.
            cost: Tokens to reserve pages for.

        Returns:
            The place, now occupied; None if no group with an idle slot has so many pages.
        """
        slots = self.slots
        slot, known = slots.choose(ticket.tokens)
        place = self._take_on(slot, known, ticket, cost)
        if place is None:
            for other in slots.others(slot):
                place = self._take_on(other, slots.known(other, ticket.tokens), ticket, cost)
                if place is not None:
                    break
            else:
                return None
        slots.occupy(place.slot)
        return place

    def prompt_computed(self, place: Place) -> None:
        """Lets others share the pages of the prompt that was computed at a place."""
        if place.kv is not None and place.reservation is not None:
            place.kv.publish(place.reservation, place.reservation.prompt_tokens)

    def grow(self, place: Place, total_tokens: int) -> bool:
        """Makes room at a place for so many tokens in all; False, and nothing changed, if it is not there."""
        if place.kv is None or place.reservation is None:
            return True
        return place.kv.grow(place.reservation, total_tokens)

    def leave(
        self,
        place: Place,
        ticket: Ticket,
        *,
        held: PackedTokens | None,
        cached_tokens: int | None,
        prompt_tokens: int | None = None,
    ) -> None:
        """Takes a place back.

        Args:
            place: What :meth:`take` gave.
            ticket: Whom it was given to.
            held: What the slot's cache holds now, if that is known.
            cached_tokens: Prompt tokens that the backend says it took from its cache, if it said so.
            prompt_tokens: Prompt tokens that it says there were; the ticket's estimate where it does not.
        """
        slot, known, reservation, kv = place
        if cached_tokens is not None:
            cached = self._cached[self.slots.group_of[slot]]
            cached.prompt += ticket.prompt_tokens if prompt_tokens is None else prompt_tokens
            cached.reported += cached_tokens
            cached.estimated += known
        if kv is not None and reservation is not None:
            if cached_tokens is not None:
                kv.correct(reservation, cached_tokens, prompt_tokens)
            kv.release(reservation)
        self.slots.vacate(slot, held)

    def withdraw(self, group: int) -> None:
        """Takes a group off offer; idempotent."""
        self.slots.withdraw(group)

    def restore(self, group: int) -> None:
        """Puts a group back on offer that holds nothing."""
        self.slots.restore(group)
        kv = self._kv[group]
        if kv is not None:
            kv.forget()

    def stats(self) -> tuple[GroupStats, ...]:
        """A snapshot of each group."""
        return tuple(
            GroupStats(
                running=self.slots.busy(group),
                slots=self.slots.size(group),
                reported_prompt_tokens=cached.prompt,
                reported_cached_tokens=cached.reported,
                estimated_cached_tokens=cached.estimated,
                kv=None if kv is None else kv.stats(),
            )
            for group, (kv, cached) in enumerate(zip(self._kv, self._cached, strict=True))
        )

    def check_integrity(self, taken: list[Place]) -> None:
        """Proves that slots and pages are taken by these places and by nothing else.

        Raises:
            IntegrityError: Names what is broken.
        """
        self.slots.check_integrity()
        occupied = sorted(place.slot for place in taken)
        if occupied != self.slots.occupied():
            raise IntegrityError("Places", f"slots {occupied} run and {self.slots.occupied()} are occupied")
        for group, kv in enumerate(self._kv):
            if kv is not None:
                kv.check_integrity()
                held = [place.reservation for place in taken if place.kv is kv]
                if kv.live != len(held) or None in held:
                    raise IntegrityError("Places", f"group {group} runs {len(held)} requests and holds pages of others")

    def _take_on(self, slot: int, known: int, ticket: Ticket, cost: int) -> Place | None:
        # The last prompt token is always computed: a backend has to go on from it.
        known = min(known, ticket.prompt_tokens - 1)
        group = self.slots.group_of[slot]
        kv = self._kv[group]
        if kv is None:
            return Place(slot, known, None, None)
        tokens = ticket.tokens if self._shared_pages[group] else None
        reservation = kv.reserve(tokens, ticket.prompt_tokens, cost)
        if reservation is None:
            return None
        return Place(slot, known if tokens is None else reservation.cached_tokens, reservation, kv)
