"""The paged KV cache of transformers' continuous batching, read where it is: true pages, true cache hits.

transformers tells nobody what a request held or found, so its cache is watched: the calls in which
it looks for a prefix and gives pages back. They are made by its own thread, one at a time. What
anybody may ask, from any thread, is read from its block tables.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from typing import Any, Final

from llamatelemetry.backends.protocol import KVReport, KVState

_MOST_TOKENS: Final = 2**31 - 1
"""No context is longer, and a cache of nothing but sliding windows holds any."""


class Holding:
    """What one request has of the cache.

    Attributes:
        pages: Most pages that it has held.
        cached_tokens: Prompt tokens that it found there, before its first token.
        started: Whether its first token has come: what is found from then on is its own.
    """

    __slots__ = ("cached_tokens", "pages", "started")

    def __init__(self) -> None:
        self.pages: int = 0
        self.cached_tokens: int = 0
        self.started: bool = False


class PagedCacheWatch:
    """Watches one cache for as long as that lives.

    A page is ``page_size`` tokens of every layer. transformers counts by the kind of layer, and layers
    with a sliding window take fewer: for a model that has both, theirs are so many parts of a page.

    It also mends one thing. transformers keeps the pages of prompts that have ended, for the next one
    that begins alike, and lets go of them when a running request finds no room. A waiting one it lets
    wait instead, and the engine has promised that there is room. So they are let go of for both.

    Args:
        cache: A ``PagedAttentionCache`` that nothing runs on yet.

    Attributes:
        page_size: Tokens in a page.
        limit: Pages there are, whatever they are used for.
        capacity: Most tokens that one request can have, if it is alone.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._allocators = tuple(cache.cache_allocators.values())
        self._layers: int = sum(allocator.pages_per_block for allocator in self._allocators)
        self._holdings: dict[str, Holding] = {}
        self.page_size: int = self._allocators[0].tokens_per_page
        self.limit: int = _most(self._fits_pages, cache.num_blocks)
        self.capacity: int = _most(self._fits_tokens, _MOST_TOKENS)
        self._search: Callable[..., int] = cache.search_prefix_match
        self._free: Callable[..., None] = cache.free_blocks
        self._can_store: Callable[..., bool] = cache.can_store_request_tokens
        cache.search_prefix_match = self._search_prefix_match
        cache.free_blocks = self._free_blocks
        cache.can_store_request_tokens = self._can_store_request_tokens

    @property
    def shares_pages(self) -> bool:
        """Whether requests share the pages of equal prefixes."""
        return bool(self._cache.use_prefix_sharing)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of cache that a token of the context takes."""
        return sum(int(allocator.bytes_per_block) // int(allocator.tokens_per_page) for allocator in self._allocators)

    def expect(self, request_id: str) -> Holding:
        """Begins to watch a request, before it is added."""
        self._holdings[request_id] = holding = Holding()
        return holding

    def forget(self, request_id: str) -> None:
        """Ends the watch of a request; idempotent."""
        self._holdings.pop(request_id, None)

    def report(self, request_id: str) -> KVReport:
        """What a request under watch has held so far."""
        # It may end meanwhile: what it held is noted before its pages go.
        holds = self._pages_of(request_id)
        return KVReport(pages=max(self._holdings[request_id].pages, holds), page_size=self.page_size)

    def state(self) -> KVState:
        """The whole cache at this moment."""
        held = [_distinct(allocator.block_table) for allocator in self._allocators]
        shared = [len(allocator.ledger.shared_ref_counts) for allocator in self._allocators]
        return KVState(
            used=self._whole(map(len, held)), limit=self.limit, shared=self._whole(shared), page_size=self.page_size
        )

    def end(self) -> None:
        """Ends the watch: the cache is on its own again, and gone when nobody has it any more."""
        for name in ("search_prefix_match", "free_blocks", "can_store_request_tokens"):
            vars(self._cache).pop(name, None)

    def _fits_pages(self, pages: int) -> bool:
        return self._fits([pages] * len(self._allocators))

    def _fits_tokens(self, tokens: int) -> bool:
        return self._fits([allocator.needs_new_blocks("", 0, tokens) for allocator in self._allocators])

    def _fits(self, blocks: Iterable[int]) -> bool:
        """Whether the empty cache has so many blocks for each kind of layer: what it gives one kind is a sector."""
        sectors = sum(
            -(-count // allocator.blocks_per_sector) for count, allocator in zip(blocks, self._allocators, strict=True)
        )
        return bool(sectors <= self._cache.num_sectors)

    def _pages_of(self, request_id: str) -> int:
        return self._whole(len(allocator.block_table.get(request_id, ())) for allocator in self._allocators)

    def _whole(self, blocks: Iterable[int]) -> int:
        """Pages of all layers, for blocks of each kind of layer; rounded up."""
        parts: int = sum(
            count * allocator.pages_per_block for count, allocator in zip(blocks, self._allocators, strict=True)
        )
        return -(-parts // self._layers)

    def _search_prefix_match(self, request_id: str, prompt_ids: list[int]) -> int:
        found = self._search(request_id, prompt_ids)
        holding = self._holdings.get(request_id)
        if holding is not None and not holding.started:
            holding.cached_tokens = found
        return found

    def _free_blocks(self, request_id: str, *args: Any, **options: Any) -> None:
        holding = self._holdings.get(request_id)
        if holding is not None:
            holding.pages = max(holding.pages, self._pages_of(request_id))
        self._free(request_id, *args, **options)

    def _can_store_request_tokens(self, state: Any, request_len: int, dry_run: bool = False) -> bool:  # noqa: FBT001, FBT002 - transformers' signature
        if self._can_store(state, request_len, dry_run):
            return True
        if dry_run or not self._cache.evict_cached_blocks():
            return False
        self._cache.pool.try_to_free_sectors()
        return self._can_store(state, request_len, dry_run)


def _most(is_possible: Callable[[int], bool], limit: int) -> int:
    """The largest number up to a limit of which something is true, as it is of all smaller ones."""
    return bisect.bisect_left(range(1, limit + 1), x=True, key=lambda number: not is_possible(number))


def _distinct(block_table: dict[str, list[int]]) -> set[int]:
    # The other thread may change the table meanwhile: list() takes its values in one step.
    return set().union(*list(block_table.values()))
