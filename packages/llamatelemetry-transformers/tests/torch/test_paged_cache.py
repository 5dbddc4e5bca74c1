"""The watch over transformers' paged cache, on caches of models with all kinds of layers, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ContinuousBatchingConfig, LlamaConfig, MistralConfig, Qwen2Config
from transformers.generation.continuous_batching import PagedAttentionCache, RequestState
from transformers.generation.continuous_batching.distributed import DistributedHelper

from llamatelemetry.backends.protocol import KVReport, KVState
from llamatelemetry.transformers.paged_cache import PagedCacheWatch

PAGE = 4
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_implementation": "sdpa",
}


def full(layers: int = 2) -> Any:
    return LlamaConfig(**SIZES, num_hidden_layers=layers)


def sliding(window: int = 8) -> Any:
    return MistralConfig(**SIZES, num_hidden_layers=2, sliding_window=window)


def mixed(full_layers: int = 1, sliding_layers: int = 3, window: int = 8) -> Any:
    kinds = ["full_attention"] * full_layers + ["sliding_attention"] * sliding_layers
    return Qwen2Config(
        **SIZES, num_hidden_layers=len(kinds), layer_types=kinds, sliding_window=window, use_sliding_window=True
    )


def cache_of(config: Any, pages: int = 16) -> PagedAttentionCache:
    batching = ContinuousBatchingConfig(
        page_size=PAGE, num_blocks=pages, max_batch_tokens=64, max_memory_percent=0.5, max_requests_per_batch=4
    )
    helper = DistributedHelper(device_mesh=None, cpu_group_timeout=None, tp_plan={})
    return PagedAttentionCache(config, batching, torch.device("cpu"), helper, torch.float32)


class Books:
    """A cache under watch, and what is asked of it as the scheduler does."""

    def __init__(self, config: Any, pages: int = 16) -> None:
        self.cache = cache_of(config, pages)
        self.watch = PagedCacheWatch(self.cache)
        self.states: dict[str, RequestState] = {}

    def begin(self, name: str, prompt: list[int]) -> bool:
        self.watch.expect(name)
        state = self.states[name] = RequestState(name, list(prompt))
        state.position_offset = self.cache.search_prefix_match(name, prompt)
        return self.step(name, len(prompt) - state.position_offset)

    def step(self, name: str, tokens: int = 1) -> bool:
        state = self.states[name]
        if not self.cache.can_store_request_tokens(state, tokens):
            return False
        complete = self.cache.count_new_complete_blocks(state, tokens)
        state.position_offset += tokens
        state.generated_tokens = [1] * (state.position_offset - len(state.initial_tokens))
        self.cache.mark_complete_blocks(state, complete)
        return True

    def end(self, name: str) -> None:
        self.cache.free_blocks(name)
        del self.states[name]


def pages_of(tokens: int) -> int:
    return -(-tokens // PAGE)


def test_pages_are_those_of_all_layers_together():
    books = Books(full())
    assert books.begin("a", list(range(9)))
    assert books.watch.state() == KVState(used=3, limit=16, shared=0, page_size=PAGE)
    assert books.watch.report("a") == KVReport(pages=3, page_size=PAGE)
    # Keys and values of 2 layers, each of 2 heads of 8 numbers of 4 bytes.
    assert books.watch.bytes_per_token == 2 * 2 * 2 * 8 * 4
    assert books.watch.shares_pages
    assert books.watch.capacity == 16 * PAGE


def test_what_a_request_held_is_known_when_it_has_ended():
    books = Books(full())
    books.begin("a", list(range(9)))
    for _ in range(8):
        books.step("a")
    books.end("a")
    assert books.watch.state().used == 0
    assert books.watch.report("a").pages == 5
    books.watch.forget("a")
    books.watch.forget("a")
    assert not books.watch._holdings


def test_what_a_request_held_is_not_lost_if_it_ends_while_it_is_asked():
    books = Books(full())
    books.begin("a", list(range(9)))
    [allocator] = books.cache.cache_allocators.values()

    class EndsWhenRead(dict):
        is_over = False

        def get(self, name: str, other: Any = None) -> Any:
            if not self.is_over:
                self.is_over = True
                books.cache.free_blocks(name)
            return super().get(name, other)

    allocator.block_table = EndsWhenRead(allocator.block_table)
    assert books.watch.report("a").pages == 3


def test_a_prompt_that_begins_like_one_that_ended_finds_its_pages():
    books = Books(full())
    books.begin("a", list(range(10)))
    books.end("a")
    holding = books.watch.expect("b")
    books.states["b"] = RequestState("b", list(range(12)))
    assert books.cache.search_prefix_match("b", list(range(12))) == holding.cached_tokens == 8
    assert books.watch.state().used == 2


def test_what_is_found_after_the_first_token_is_its_own_and_no_hit():
    books = Books(full())
    books.begin("a", list(range(10)))
    holding = books.watch.expect("b")
    holding.started = True
    books.cache.search_prefix_match("b", list(range(10)))
    assert holding.cached_tokens == 0


def test_requests_that_nobody_watches_are_left_alone():
    books = Books(full())
    books.states["x"] = state = RequestState("x", list(range(10)))
    assert books.cache.search_prefix_match("x", list(range(10))) == 0
    assert books.cache.can_store_request_tokens(state, 10)
    assert books.watch.state().used == 3
    books.cache.free_blocks("x")
    assert books.watch.state().used == 0


def test_pages_that_two_hold_count_once():
    books = Books(full())
    books.begin("a", list(range(10)))
    books.begin("b", list(range(10)))
    assert books.watch.state() == KVState(used=4, limit=16, shared=2, page_size=PAGE)
    books.end("a")
    assert books.watch.state() == KVState(used=3, limit=16, shared=0, page_size=PAGE)


def test_pages_kept_for_later_make_room_for_who_is_here_now():
    books = Books(full(), pages=4)
    books.begin("a", list(range(16)))
    books.end("a")
    assert books.begin("b", list(range(40, 56)))
    assert books.watch.state().used == 4


def test_who_only_asks_whether_there_is_room_takes_nothing_away():
    books = Books(full(), pages=4)
    books.begin("a", list(range(16)))
    books.end("a")
    assert not books.cache.can_store_request_tokens(RequestState("b", []), 16, dry_run=True)
    assert books.begin("c", list(range(16)))
    assert books.watch._holdings["c"].cached_tokens == 12


def test_layers_with_a_window_hold_no_more_than_that():
    books = Books(sliding(window=8))
    books.begin("a", list(range(20)))
    assert books.watch.state().used == 2
    assert not books.watch.shares_pages
    assert books.watch.capacity == 2**31 - 1


def test_layers_with_a_window_are_parts_of_a_page_beside_those_without():
    books = Books(mixed(full_layers=1, sliding_layers=3, window=8))
    books.begin("a", list(range(20)))
    # 5 pages of one layer and 2 of three: 11 of those of a layer, of which a page has 4.
    assert books.watch.state().used == 3
    assert books.watch.report("a").pages == 3
    books.end("a")
    assert books.watch.state().used == 0


def test_a_cache_that_nobody_watches_any_more_is_as_it_was():
    cache = cache_of(full())
    before = dict(vars(cache))
    watch = PagedCacheWatch(cache)
    assert vars(cache) != before
    watch.end()
    watch.end()
    assert vars(cache) == before
    assert watch.state().used == 0


CONFIGS = {
    "full": full(),
    "one layer": full(1),
    "sliding": sliding(8),
    "mixed 1:3": mixed(1, 3),
    "mixed 2:3": mixed(2, 3),
    "mixed 3:1, large window": mixed(3, 1, window=64),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("pages", [1, 2, 3, 7, 16])
def test_so_many_pages_as_are_said_to_be_there_are_there(config, pages):
    """For requests of one page each, which is the worst that can be asked of layers of several kinds."""
    books = Books(config, pages)
    assert books.watch.limit <= pages + 1
    for number in range(books.watch.limit):
        assert books.begin(str(number), [number] * PAGE)
    assert books.watch.state().used == books.watch.limit


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_one_request_can_have_what_is_said_and_no_more(config):
    books = Books(config, 7)
    most = min(books.watch.capacity, 100)
    assert books.begin("a", [1] * most)
    if books.watch.capacity == most:
        assert not books.step("a", PAGE + 1)
        books = Books(config, 7)
        assert not books.begin("b", [1] * (most + 1))


actions = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 5), st.integers(1, 14), st.integers(0, 1)),
        st.tuples(st.just("step"), st.integers(0, 5), st.integers(1, 5), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 5), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@pytest.mark.parametrize("config", [CONFIGS["full"], CONFIGS["mixed 1:3"]], ids=["full", "mixed"])
@given(actions=actions)
@settings(deadline=None, max_examples=60)
def test_the_books_balance_whatever_happens(config, actions):
    books = Books(config, 8)
    most: dict[str, int] = {}
    for kind, number, count, word in actions:
        name = str(number)
        if kind == "begin" and name not in books.states:
            books.watch.forget(name)
            most.pop(name, None)
            if not books.begin(name, [word] * count):
                books.end(name)
                books.watch.forget(name)
        elif kind == "step" and name in books.states:
            books.step(name, count)
        elif kind == "end" and name in books.states:
            books.end(name)
        state = books.watch.state()
        allocators = list(books.cache.cache_allocators.values())
        layers = [allocator.pages_per_block for allocator in allocators]
        blocks = [{block for name in books.states for block in each.block_table.get(name, ())} for each in allocators]
        held = sum(len(each) * times for each, times in zip(blocks, layers, strict=True))
        assert state.used == -(-held // sum(layers))
        assert 0 <= state.shared <= state.used <= state.limit + 1
        for each in books.states:
            most[each] = max(most.get(each, 0), pages_of(books.states[each].position_offset))
            if len(layers) == 1:
                assert books.watch.report(each).pages == most[each]
    for name in list(books.states):
        books.end(name)
    assert books.watch.state().used == books.watch.state().shared == 0
    books.cache.evict_cached_blocks()
    assert books.cache.compute_free_capacity() == 1.0
