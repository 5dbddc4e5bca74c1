"""A backend that counts the pages of its own KV cache: its numbers take the place of the engine's estimates."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

from llamatelemetry.backends.echo import EchoBackend, EchoScript
from llamatelemetry.backends.protocol import (
    CacheReporting,
    KVReport,
    KVState,
    ModelInfo,
    Placement,
    StreamEnd,
    TokenDelta,
)
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.live import EngineStats

REPORT = KVReport(pages=5, page_size=16)


class Paged(EchoBackend):
    """An echo with a cache of ten pages of sixteen tokens, of which every answer holds five."""

    def __init__(self, *, slots: int = 2, script: EchoScript | None = None, shared: bool = True) -> None:
        super().__init__(script, slots=slots)
        self._shared = shared
        self.state: KVState | None = KVState(used=3, limit=10, shared=1, page_size=16)

    def open(self) -> ModelInfo:
        return replace(super().open(), context_length=64, kv_tokens=160, kv_page_size=16, kv_pages_shared=self._shared)

    def kv_state(self) -> KVState | None:
        return self.state

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        for item in super().stream(request, placement):
            yield replace(item, kv=REPORT) if isinstance(item, StreamEnd) else item


def pages_of(stats: EngineStats) -> tuple[int | None, int | None, int | None, bool]:
    return stats.kv_pages_used, stats.kv_pages_limit, stats.kv_pages_shared, stats.kv_estimated


def test_a_backend_may_count_its_pages_and_need_not():
    assert isinstance(Paged(), CacheReporting)
    assert not isinstance(EchoBackend(), CacheReporting)


def test_pages_that_the_backend_counted_are_no_estimate(sink) -> None:
    with InferenceEngine(Paged()) as engine:
        result = engine.generate(InferenceRequest(prompt="one two", max_tokens=1))
    (record,) = sink.records
    assert result.kv_pages == 5
    assert (record.kv.pages, record.kv.page_size, record.kv.estimated) == (5, 16, False)
    assert record.kv.cached_estimate == 0


def test_a_request_that_failed_has_the_engines_estimate_in_pages_of_the_backends_size(sink) -> None:
    script = EchoScript(tokens=["a"], fail_after=0)
    with InferenceEngine(Paged(script=script)) as engine:
        engine.submit(InferenceRequest(prompt="one two", max_tokens=30)).exception()
    (record,) = sink.records
    assert (record.kv.pages, record.kv.page_size, record.kv.estimated) == (3, 16, True)


def test_the_engines_figures_are_the_backends_own():
    backend = Paged()
    with InferenceEngine(backend) as engine:
        assert pages_of(engine.stats()) == (3, 10, 1, False)
        backend.state = None
        assert pages_of(engine.stats()) == (0, 10, 0, True)


def test_beside_a_backend_that_counts_nothing_the_sum_is_an_estimate():
    with InferenceEngine([Paged(), EchoBackend()]) as engine:
        stats = engine.stats()
        assert pages_of(stats) == (3, 10, 1, True)
        assert [each.kv_estimated for each in stats.backends] == [False, True]


def test_requests_that_share_the_pages_of_a_prefix_are_let_in_together_where_the_backend_shares_them():
    prompt = " ".join(f"word{number}" for number in range(49))
    for shared, together in ((True, 3), (False, 2)):
        entered = threading.Semaphore(0)
        hold = threading.Event()

        class Holding(Paged):
            def stream(
                self, request: InferenceRequest, placement: Placement, entered=entered, hold=hold
            ) -> Iterator[TokenDelta | StreamEnd]:
                items = super().stream(request, placement)
                yield next(items)
                entered.release()
                hold.wait(10)
                yield from items

        with InferenceEngine(Holding(slots=3, shared=shared)) as engine:
            # Four pages each, of ten: two fit, and a third where three of its pages are the first one's.
            futures = [engine.submit(InferenceRequest(prompt=prompt, max_tokens=8))]
            assert entered.acquire(timeout=10)
            futures += [engine.submit(InferenceRequest(prompt=prompt, max_tokens=8)) for _ in range(2)]
            for _ in range(together - 1):
                assert entered.acquire(timeout=10)
            assert engine.stats().requests_active == together
            hold.set()
            assert all(future.result(10).output_tokens == 8 for future in futures)
