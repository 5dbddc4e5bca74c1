from __future__ import annotations

import pytest

from llamatelemetry.errors import IntegrityError, InvalidValueError
from llamatelemetry.inference.kv_cache import PagedKVCache
from llamatelemetry.inference.tokens import pack_tokens


def numbers(first: int, count: int):
    return pack_tokens(list(range(first, first + count)))


def computed(cache: PagedKVCache, prompt, prompt_tokens: int, total: int | None = None):
    reservation = cache.reserve(prompt, prompt_tokens, total or prompt_tokens)
    assert reservation is not None
    cache.publish(reservation, prompt_tokens)
    return reservation


def test_a_request_reserves_room_for_its_prompt_and_its_answer() -> None:
    cache = PagedKVCache(10, 16)
    reservation = cache.reserve(None, 17, 33)
    assert reservation is not None
    assert reservation.pages == 3
    assert cache.stats().used == 3


def test_what_does_not_fit_changes_nothing() -> None:
    cache = PagedKVCache(4, 16)
    held = cache.reserve(None, 1, 32)
    before = cache.stats()
    assert cache.reserve(None, 1, 33) is None
    assert cache.stats() == before
    assert held is not None
    cache.release(held)
    assert cache.reserve(None, 1, 64) is not None


def test_a_prefix_is_shared_once_it_is_computed_and_not_before() -> None:
    cache = PagedKVCache(20, 4)
    first = cache.reserve(numbers(0, 12), 12, 16)
    assert first is not None
    early = cache.reserve(numbers(0, 12), 12, 16)
    assert early is not None
    assert early.cached_tokens == 0
    cache.publish(first, 11)
    late = cache.reserve(numbers(0, 12), 12, 16)
    assert late is not None
    assert late.cached_tokens == 8
    assert cache.stats().shared == 2


def test_the_last_prompt_token_is_always_computed() -> None:
    cache = PagedKVCache(20, 4)
    computed(cache, numbers(0, 8), 8)
    again = cache.reserve(numbers(0, 8), 8, 8)
    longer = cache.reserve(numbers(0, 9), 9, 9)
    assert again is not None
    assert longer is not None
    assert (again.cached_tokens, longer.cached_tokens) == (4, 8)


def test_equal_tokens_after_different_beginnings_are_different_pages() -> None:
    cache = PagedKVCache(20, 2)
    computed(cache, pack_tokens([1, 1, 5, 5, 9]), 5)
    other = cache.reserve(pack_tokens([2, 2, 5, 5, 9]), 5, 5)
    assert other is not None
    assert other.cached_tokens == 0


def test_a_page_computed_twice_is_held_once() -> None:
    cache = PagedKVCache(20, 4)
    one = cache.reserve(numbers(0, 8), 8, 8)
    other = cache.reserve(numbers(0, 8), 8, 8)
    assert one is not None
    assert other is not None
    assert cache.stats().used == 4
    cache.publish(one, 8)
    cache.publish(other, 8)
    assert cache.stats().used == 2
    assert one.chain == other.chain
    cache.check_integrity()


def test_a_released_prefix_is_found_until_its_room_is_needed_and_its_tail_goes_first() -> None:
    cache = PagedKVCache(4, 4)
    cache.release(computed(cache, numbers(0, 16), 16))
    assert cache.stats().cached == 4
    other = cache.reserve(None, 1, 8)
    assert other is not None
    cache.release(other)
    again = cache.reserve(numbers(0, 16), 16, 16)
    assert again is not None
    assert again.cached_tokens == 8


def test_what_was_used_last_is_evicted_last() -> None:
    cache = PagedKVCache(5, 4)
    for first in (0, 100):
        cache.release(computed(cache, numbers(first, 8), 8))
    used = cache.reserve(numbers(0, 8), 8, 8)
    assert used is not None
    cache.release(used)
    room = cache.reserve(None, 1, 16)
    assert room is not None
    cache.release(room)
    forgotten = cache.reserve(numbers(100, 8), 8, 8)
    known = cache.reserve(numbers(0, 8), 8, 8)
    assert forgotten is not None
    assert known is not None
    assert (forgotten.cached_tokens, known.cached_tokens) == (0, 4)


def test_a_reservation_grows_by_pages_and_is_trimmed_to_what_it_needs() -> None:
    cache = PagedKVCache(4, 4)
    reservation = cache.reserve(None, 4, 5)
    assert reservation is not None
    assert cache.grow(reservation, 8)
    assert reservation.pages == 2
    assert cache.grow(reservation, 16)
    assert not cache.grow(reservation, 17)
    cache.trim(reservation, 6)
    assert reservation.pages == 2
    with pytest.raises(InvalidValueError, match="prompt"):
        cache.trim(reservation, 3)


def test_growing_evicts_what_nobody_holds() -> None:
    cache = PagedKVCache(4, 4)
    cache.release(computed(cache, numbers(0, 12), 12))
    reservation = cache.reserve(None, 1, 4)
    assert reservation is not None
    assert cache.grow(reservation, 16)
    assert cache.stats().cached == 0
    cache.check_integrity()


def test_a_cache_that_begins_anew_finds_nothing_and_keeps_what_is_held() -> None:
    cache = PagedKVCache(20, 4)
    cache.release(computed(cache, numbers(0, 12), 12))
    held = computed(cache, numbers(100, 8), 8)
    cache.forget()
    cache.check_integrity()
    assert (cache.stats().cached, cache.stats().used, cache.live) == (0, 2, 1)
    again = cache.reserve(numbers(0, 12), 12, 12)
    assert again is not None
    assert again.cached_tokens == 0
    cache.release(held)


def test_estimated_and_reported_hits_are_told_apart() -> None:
    cache = PagedKVCache(20, 4)
    assert cache.stats().hit_ratio is None
    assert cache.stats().reported_hit_ratio is None
    computed(cache, numbers(0, 8), 8)
    again = cache.reserve(numbers(0, 8), 8, 8)
    assert again is not None
    cache.correct(again, 6)
    stats = cache.stats()
    assert stats.hit_ratio == 4 / 16
    assert stats.reported_hit_ratio == 6 / 8
    with pytest.raises(IntegrityError, match="twice"):
        cache.correct(again, 6)


def test_a_reservation_cannot_be_used_after_its_release() -> None:
    cache = PagedKVCache(4, 4)
    reservation = cache.reserve(None, 4, 4)
    assert reservation is not None
    cache.release(reservation)
    for use in (
        lambda: cache.release(reservation),
        lambda: cache.grow(reservation, 8),
        lambda: cache.trim(reservation, 8),
        lambda: cache.publish(reservation, 4),
        lambda: cache.correct(reservation, 4),
    ):
        with pytest.raises(IntegrityError, match="released"):
            use()
    assert cache.stats().used == 0


def test_ids_that_are_fewer_or_more_than_the_counted_prompt_are_an_estimate() -> None:
    cache = PagedKVCache(20, 4)
    computed(cache, numbers(0, 6), 9)
    computed(cache, numbers(0, 12), 6)
    again = cache.reserve(numbers(0, 12), 12, 12)
    assert again is not None
    assert again.cached_tokens == 4
    cache.check_integrity()


@pytest.mark.parametrize(("pages", "page_size"), [(0, 16), (16, 0)])
def test_a_cache_without_room_is_refused(pages, page_size) -> None:
    with pytest.raises(InvalidValueError):
        PagedKVCache(pages, page_size)


@pytest.mark.parametrize(("prompt_tokens", "total_tokens"), [(5, 4), (-1, 4)])
def test_a_total_below_its_prompt_is_refused(prompt_tokens, total_tokens) -> None:
    with pytest.raises(InvalidValueError, match="total_tokens"):
        PagedKVCache(4, 4).reserve(None, prompt_tokens, total_tokens)


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: cache._pool._blank.pop(),
        lambda cache: cache._pool._blank.append(cache._pool._blank[0]),
        lambda cache: cache._pool._find.popitem(),
        lambda cache: cache._pool._holders.__setitem__(2, 7),
        lambda cache: cache._live.clear(),
        lambda cache: setattr(cache._pool, "cached", 5),
        lambda cache: setattr(cache._pool, "shared", 5),
        lambda cache: cache._pool._after.reverse(),
    ],
)
def test_damaged_books_are_noticed(damage) -> None:
    cache = PagedKVCache(20, 4)
    cache.release(computed(cache, numbers(0, 12), 12))
    computed(cache, numbers(0, 8), 8, 20)
    cache.check_integrity()
    damage(cache)
    with pytest.raises(IntegrityError):
        cache.check_integrity()
