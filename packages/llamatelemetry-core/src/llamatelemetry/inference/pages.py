"""Pages of KV cache and the order in which they may be reused: the floor that the cache stands on.

A page is in one of four states. *Blank*: free and empty. *Own*: handed out, and found by nobody.
*Held*: full of prompt tokens, findable, and counted once for each of its readers. *Cached*: findable
and held by nobody; its content is kept until room is needed. Only cached pages are in the eviction
order: a doubly linked list inside two lists of integers, as in vLLM's free queue, so that a page
leaves it from any place in O(1).

A full page of a prompt is found by the id of the content before it and its own tokens. Ids belong to
contents, not to places, and never come back; so Python's dictionary is the chained block hash, and
its equality the comparison of tokens on a hit.

Whoever holds a page holds those before it, and a released chain is evicted from its tail; so a
findable page is never left without the page that it is found through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from llamatelemetry.errors import IntegrityError
from llamatelemetry.inference.tokens import TOKEN_BYTES, PackedTokens

_ROOT: Final = 0
"""Content id before the first page of any prompt."""

_Key = tuple[int, bytes]


class PagePool:
    """All pages, by number, and where each one is.

    Args:
        pages: Pages there are.
        page_size: Tokens in a page.

    Attributes:
        cached: Pages that are cached.
        shared: Pages that two or more hold.
    """

    def __init__(self, pages: int, page_size: int) -> None:
        self.cached: int = 0
        self.shared: int = 0
        self._pages = pages
        self._page_bytes = page_size * TOKEN_BYTES
        self._blank = list(range(pages - 1, -1, -1))
        self._find: dict[_Key, int] = {}
        self._keys: list[_Key | None] = [None] * pages
        self._content = [_ROOT] * pages
        self._last_content = _ROOT
        self._holders = [0] * pages
        # Oldest first; the element past the last page is the end that closes the list to a ring.
        self._after = [0] * pages + [pages]
        self._before = [0] * pages + [pages]

    @property
    def free(self) -> int:
        """Pages that can be handed out: blank or cached."""
        return len(self._blank) + self.cached

    def find(self, prompt: PackedTokens, limit: int, chain: Sequence[int] = ()) -> list[int]:
        """Findable pages that hold the prompt's beginning after ``chain``, up to its page ``limit``."""
        find, content, size = self._find, self._content, self._page_bytes
        found: list[int] = []
        before = content[chain[-1]] if chain else _ROOT
        for start in range(len(chain) * size, limit * size, size):
            page = find.get((before, prompt[start : start + size]))
            if page is None:
                break
            found.append(page)
            before = content[page]
        return found

    def count_cached(self, chain: list[int]) -> int:
        """How many of these findable pages nobody holds."""
        holders = self._holders
        return [holders[page] for page in chain].count(0)

    def hold(self, chain: list[int]) -> None:
        """Counts one more holder of each of these findable pages."""
        holders, after, before = self._holders, self._after, self._before
        for page in chain:
            count = holders[page]
            holders[page] = count + 1
            if count == 0:
                previous, following = before[page], after[page]
                after[previous] = following
                before[following] = previous
                self.cached -= 1
            elif count == 1:
                self.shared += 1

    def drop(self, chain: list[int]) -> None:
        """Counts one holder less; pages nobody holds are cached, the chain's tail to be evicted first."""
        holders, after, before, end = self._holders, self._after, self._before, self._pages
        last = before[end]
        kept = len(chain)
        # A page has no more holders than the one before it, so those held by this chain alone are its tail.
        while kept and holders[chain[kept - 1]] == 1:
            kept -= 1
            page = chain[kept]
            holders[page] = 0
            after[last] = page
            before[page] = last
            last = page
        after[last] = end
        before[end] = last
        self.cached += len(chain) - kept
        for page in chain[:kept]:
            holders[page] -= 1
            if holders[page] == 1:
                self.shared -= 1

    def take(self, count: int) -> list[int]:
        """Hands out that many free pages: blank ones, then those longest unused. The caller saw that they are there."""
        blank = self._blank
        keep = max(0, len(blank) - count)
        taken = blank[keep:]
        del blank[keep:]
        evicted = count - len(taken)
        if evicted:
            after, keys, find, end = self._after, self._keys, self._find, self._pages
            page = after[end]
            for _ in range(evicted):
                key = keys[page]
                if key is None:
                    raise IntegrityError("PagePool", f"page {page} is in the eviction order and holds nothing")
                del find[key]
                keys[page] = None
                taken.append(page)
                page = after[page]
            after[end] = page
            self._before[page] = end
            self.cached -= evicted
        return taken

    def give_back(self, own: list[int]) -> None:
        """Makes pages that nobody finds blank again."""
        self._blank += own

    def publish(self, prompt: PackedTokens, chain: list[int], own: list[int]) -> None:
        """Appends ``own``, now holding the prompt's tokens after ``chain``, to the chain as findable pages.

        A page that another published first takes the place of the own one, which becomes blank: equal
        contents are held once.
        """
        content, size = self._content, self._page_bytes
        known = self.find(prompt, len(chain) + len(own), chain)
        self.hold(known)
        chain += known
        self._blank += own[: len(known)]
        find, keys, holders, last = self._find, self._keys, self._holders, self._last_content
        before = content[chain[-1]] if chain else _ROOT
        start = len(chain) * size
        for page in own[len(known) :]:
            key = (before, prompt[start : start + size])
            find[key] = page
            keys[page] = key
            last += 1
            content[page] = before = last
            holders[page] = 1
            chain.append(page)
            start += size
        self._last_content = last

    def check_integrity(self, own: list[int], chains: list[tuple[PackedTokens, list[int]]]) -> None:
        """Proves every page to be in exactly one state, and every chain whole.

        Args:
            own: All pages handed out and found by nobody.
            chains: For each holder, its prompt and the findable pages it holds.

        Raises:
            IntegrityError: Names what is broken.
        """
        held = Counter(page for _, chain in chains for page in chain)
        order = self._eviction_order()
        places = Counter([*self._blank, *own, *order, *held])
        findable = {*order, *held}
        homes = {self._content[page]: page for page in findable}
        _require("the count of cached pages", len(order), self.cached)
        _require("the count of shared pages", sum(1 for count in held.values() if count > 1), self.shared)
        _require("the number of findable pages", len(findable), len(self._find))
        for page in range(self._pages):
            _require(f"the number of places that page {page} is in", places[page], 1)
            key = self._keys[page]
            _require(f"whether page {page} can be found", page in findable, key is not None)
            if key is not None:
                _require(f"the page found by the key of page {page}", self._find.get(key), page)
                _require(f"the holders of page {page}", held[page], self._holders[page])
                if key[0] != _ROOT:
                    _require(f"whether the page before page {page} is there", key[0] in homes, True)
                    parent = homes[key[0]]
                    safe = held[parent] >= held[page] and (parent in held or order[parent] > order[page])
                    _require(f"whether page {page} outlives the page before it", safe, True)
        for prompt, chain in chains:
            before, size = _ROOT, self._page_bytes
            for index, page in enumerate(chain):
                expected = (before, prompt[index * size : (index + 1) * size])
                _require(f"the tokens of page {page}", self._keys[page], expected)
                before = self._content[page]

    def _eviction_order(self) -> dict[int, int]:
        order: dict[int, int] = {}
        previous, page = self._pages, self._after[self._pages]
        while page != self._pages:
            _require(f"the page before page {page} in the eviction order", self._before[page], previous)
            order[page] = len(order)
            previous, page = page, self._after[page]
        _require("the end of the eviction order", self._before[page], previous)
        return order


def _require(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise IntegrityError("PagePool", f"{what} is {found!r} and should be {expected!r}")
