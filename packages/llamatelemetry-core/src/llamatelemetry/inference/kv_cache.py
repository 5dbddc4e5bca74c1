"""The KV cache as books: how many pages each request holds, and what of its prompt was cached.

Nothing is stored but numbers. For a backend that exposes its cache they are its own; for one behind a
server they are an estimate, and :meth:`PagedKVCache.correct` sets beside it what the server reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llamatelemetry.errors import IntegrityError, InvalidValueError
from llamatelemetry.inference.pages import PagePool
from llamatelemetry.inference.tokens import PackedTokens, count_tokens


class Reservation:
    """Pages one request holds. Made by :meth:`PagedKVCache.reserve`; read it, and let the cache change it.

    Attributes:
        prompt: The prompt's tokens, or None if they are not known.
        prompt_tokens: Tokens in the prompt.
        cached_tokens: Prompt tokens that were found in the cache: an estimate for a server backend.
        chain: Findable pages, from the prompt's beginning.
        own: Pages after those, found by nobody.
        corrected: True once the backend's own figure was recorded.
    """

    __slots__ = ("cached_tokens", "chain", "corrected", "own", "prompt", "prompt_tokens")

    def __init__(
        self, prompt: PackedTokens | None, prompt_tokens: int, cached_tokens: int, chain: list[int], own: list[int]
    ) -> None:
        self.prompt: PackedTokens | None = prompt
        self.prompt_tokens: int = prompt_tokens
        self.cached_tokens: int = cached_tokens
        self.chain: list[int] = chain
        self.own: list[int] = own
        self.corrected: bool = False

    @property
    def pages(self) -> int:
        """Pages held."""
        return len(self.chain) + len(self.own)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVStats:
    """The cache at one moment. ``reported`` figures are the backend's, the others these books'.

    Attributes:
        pages: Pages there are.
        page_size: Tokens in a page.
        used: Pages that reservations hold; one that several share counts once.
        shared: Pages that two reservations or more hold.
        cached: Pages nobody holds that still hold findable content.
        lookup_tokens: Prompt tokens of the reservations made with their tokens known.
        hit_tokens: Those of them that were found in the cache.
        reported_lookup_tokens: Prompt tokens of the reservations that the backend reported on.
        reported_hit_tokens: Those of them that it took from its cache.
    """

    pages: int
    page_size: int
    used: int
    shared: int
    cached: int
    lookup_tokens: int
    hit_tokens: int
    reported_lookup_tokens: int
    reported_hit_tokens: int

    @property
    def hit_ratio(self) -> float | None:
        """Share of prompt tokens found in the cache; None before the first look."""
        return self.hit_tokens / self.lookup_tokens if self.lookup_tokens else None

    @property
    def reported_hit_ratio(self) -> float | None:
        """Share of prompt tokens that the backend took from its cache; None before its first word."""
        return self.reported_hit_tokens / self.reported_lookup_tokens if self.reported_lookup_tokens else None


class PagedKVCache:
    """Reserves pages of KV cache, and finds those that hold a prompt's beginning. Not thread-safe.

    Args:
        pages: Pages there are.
        page_size: Tokens in a page.

    Raises:
        InvalidValueError: Either is below one.
    """

    def __init__(self, pages: int, page_size: int = 16) -> None:
        for field, value in (("pages", pages), ("page_size", page_size)):
            if value < 1:
                raise InvalidValueError(field, value, "give at least 1")
        self.pages: Final = pages
        self.page_size: Final = page_size
        self._pool = PagePool(pages, page_size)
        self._live: set[Reservation] = set()
        self._lookup_tokens = self._hit_tokens = 0
        self._reported_lookup_tokens = self._reported_hit_tokens = 0

    @property
    def capacity_tokens(self) -> int:
        """Tokens that fit in all pages together."""
        return self.pages * self.page_size

    def reserve(self, prompt: PackedTokens | None, prompt_tokens: int, total_tokens: int) -> Reservation | None:
        """Takes ceil(total / page size) pages, shared ones included; None if so many are not free.

        The last prompt token is never taken as cached: a backend has to compute it to go on from it.

        Args:
            prompt: Packed prompt, or None to count pages without looking for shared ones.
            prompt_tokens: Tokens in the prompt; where it is not packed in as many, the fewer are looked up.
            total_tokens: Tokens to have room for, the prompt's included.

        Raises:
            InvalidValueError: The numbers do not fit each other.
        """
        if not 0 <= prompt_tokens <= total_tokens:
            raise InvalidValueError("total_tokens", total_tokens, f"give at least the prompt's {prompt_tokens}")
        pool = self._pool
        chain: list[int] = []
        fresh, free = -(-total_tokens // self.page_size), pool.free
        if prompt is not None:
            chain = pool.find(prompt, (min(count_tokens(prompt), prompt_tokens) - 1) // self.page_size)
            fresh -= len(chain)
            free -= pool.count_cached(chain)
        if fresh > free:
            return None
        cached_tokens = len(chain) * self.page_size
        if prompt is not None:
            pool.hold(chain)
            self._lookup_tokens += prompt_tokens
            self._hit_tokens += cached_tokens
        reservation = Reservation(prompt, prompt_tokens, cached_tokens, chain, pool.take(fresh))
        self._live.add(reservation)
        return reservation

    def publish(self, reservation: Reservation, computed_tokens: int) -> None:
        """Makes the reservation's full prompt pages findable, as far as they are computed.

        Args:
            reservation: Whose pages.
            computed_tokens: Prompt tokens computed so far, cached ones included.

        Raises:
            IntegrityError: It was released.
        """
        self._check_live(reservation)
        prompt, own = reservation.prompt, reservation.own
        if prompt is None:
            return
        known = min(computed_tokens, reservation.prompt_tokens, count_tokens(prompt))
        count = known // self.page_size - len(reservation.chain)
        if count > 0:
            self._pool.publish(prompt, reservation.chain, own[:count])
            del own[:count]

    def grow(self, reservation: Reservation, total_tokens: int) -> bool:
        """Makes room for ``total_tokens`` in all; False, and nothing changed, if it is not there.

        Raises:
            IntegrityError: It was released.
        """
        self._check_live(reservation)
        more = self._pages_for(total_tokens) - reservation.pages
        if more > self._pool.free:
            return False
        if more > 0:
            reservation.own += self._pool.take(more)
        return True

    def trim(self, reservation: Reservation, total_tokens: int) -> None:
        """Gives back the last pages, those that ``total_tokens`` do not need.

        Raises:
            InvalidValueError: The prompt itself needs them.
            IntegrityError: It was released.
        """
        self._check_live(reservation)
        if total_tokens < reservation.prompt_tokens:
            raise InvalidValueError(
                "total_tokens", total_tokens, f"give at least the prompt's {reservation.prompt_tokens}"
            )
        keep = self._pages_for(total_tokens) - len(reservation.chain)
        self._pool.give_back(reservation.own[keep:])
        del reservation.own[keep:]

    def release(self, reservation: Reservation) -> None:
        """Gives back everything. Findable pages keep their content until room is needed.

        Raises:
            IntegrityError: It was released before.
        """
        self._check_live(reservation)
        self._live.remove(reservation)
        if reservation.chain:
            self._pool.drop(reservation.chain)
        self._pool.give_back(reservation.own)
        reservation.chain.clear()
        reservation.own.clear()

    def correct(self, reservation: Reservation, cached_tokens: int, prompt_tokens: int | None = None) -> None:
        """Records how many prompt tokens the backend says that it took from its cache.

        Args:
            reservation: Whose prompt it was.
            cached_tokens: The backend's figure.
            prompt_tokens: How many there were, by the backend; the reservation's estimate where it does not say.

        Raises:
            IntegrityError: It said so before, or the reservation was released.
        """
        self._check_live(reservation)
        if reservation.corrected:
            raise IntegrityError("PagedKVCache", "a reservation was corrected twice")
        reservation.corrected = True
        self._reported_lookup_tokens += reservation.prompt_tokens if prompt_tokens is None else prompt_tokens
        self._reported_hit_tokens += cached_tokens

    @property
    def live(self) -> int:
        """Reservations that are not released."""
        return len(self._live)

    def forget(self) -> None:
        """Forgets the content of every page nobody holds, as when the backend has begun anew."""
        self._pool.give_back(self._pool.take(self._pool.free))

    def stats(self) -> KVStats:
        """A snapshot."""
        return KVStats(
            pages=self.pages,
            page_size=self.page_size,
            used=self.pages - self._pool.free,
            shared=self._pool.shared,
            cached=self._pool.cached,
            lookup_tokens=self._lookup_tokens,
            hit_tokens=self._hit_tokens,
            reported_lookup_tokens=self._reported_lookup_tokens,
            reported_hit_tokens=self._reported_hit_tokens,
        )

    def check_integrity(self) -> None:
        """Proves that every page is accounted for, once.

        Raises:
            IntegrityError: Names what is broken.
        """
        chains = []
        for held in self._live:
            if held.chain and held.prompt is None:
                raise IntegrityError("PagedKVCache", "a prompt that is not known has findable pages")
            if held.prompt is not None:
                chains.append((held.prompt, held.chain))
        self._pool.check_integrity([page for held in self._live for page in held.own], chains)

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def _check_live(self, reservation: Reservation) -> None:
        if reservation not in self._live:
            raise IntegrityError("PagedKVCache", "a reservation was used that is released, or another cache's")
