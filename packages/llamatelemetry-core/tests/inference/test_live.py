from __future__ import annotations

import os

import pytest

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.inference import live
from llamatelemetry.inference.live import EngineStats

ONE = ModelInfo(model="one", provider="test")
OTHER = ModelInfo(model="other", provider="test")


class Counted:
    """An engine as far as this module looks at it."""

    def __init__(self, stats: EngineStats) -> None:
        self._stats = stats

    def stats(self) -> EngineStats:
        return self._stats

    def close(self, *, drain: bool = True) -> None:
        live.discard(self)


@pytest.fixture(autouse=True)
def nothing_counted_before(monkeypatch):
    monkeypatch.setattr(live, "_closed", type(live._closed)())


def opened(stats: EngineStats) -> Counted:
    engine = Counted(stats)
    live.add(engine)
    return engine


def test_what_an_engine_counted_outlives_it():
    stats = EngineStats(model=ONE, queue_depth=3, retried=2, rejected={"queue_full_requests": 4}, prefix_hits_tokens=5)
    engine = opened(stats)
    assert stats in live.stats()
    assert live.closed() == ()
    engine.close()
    assert stats not in live.stats()
    (kept,) = live.closed()
    assert (kept.model, kept.retried, kept.rejected, kept.prefix_hits_tokens) == (
        ONE,
        2,
        {"queue_full_requests": 4},
        5,
    )
    assert (kept.queue_depth, kept.prefix_queries_tokens) == (0, None)


def test_an_engine_closed_twice_is_counted_once():
    engine = opened(EngineStats(model=ONE, retried=2))
    engine.close()
    engine.close()
    assert [kept.retried for kept in live.closed()] == [2]


def test_engines_of_one_model_add_up():
    for rejected in ({"closed": 1}, {"closed": 1, "deadline_passed": 2}):
        opened(EngineStats(model=ONE, completed=1, rejected=rejected, prefix_queries_tokens=7)).close()
    opened(EngineStats(model=OTHER, failed=1)).close()
    one, other = live.closed()
    assert (one.completed, one.rejected, one.prefix_queries_tokens) == (2, {"closed": 2, "deadline_passed": 2}, 14)
    assert (other.model, other.failed, other.prefix_queries_tokens) == (OTHER, 1, None)


def test_each_backend_of_an_engine_keeps_its_own_and_what_they_share_is_counted_once():
    backends = (EngineStats(model=ONE, prefix_hits_tokens=1), EngineStats(model=OTHER, prefix_hits_tokens=2))
    both = ModelInfo(model="both", provider="test")
    opened(EngineStats(model=both, cancelled=3, prefix_hits_tokens=3, backends=backends)).close()
    assert {kept.model.model: (kept.cancelled, kept.prefix_hits_tokens) for kept in live.closed()} == {
        "both": (3, None),
        "one": (0, 1),
        "other": (0, 2),
    }


def test_counts_are_kept_of_a_bounded_number_of_models(monkeypatch):
    monkeypatch.setattr(live, "CLOSED_MODELS", 2)
    for name in ("a", "b", "a", "c"):
        opened(EngineStats(model=ModelInfo(model=name, provider="test"), retried=1)).close()
    assert [(kept.model.model, kept.retried) for kept in live.closed()] == [("a", 2), ("c", 1)]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # another test's threads may still be there
def test_a_forked_child_has_no_engines_whatever_its_parent_was_doing():
    engine = opened(EngineStats(model=ONE, retried=1))
    read, write = os.pipe()
    with live._lock:
        pid = os.fork()
        if pid == 0:
            os.write(write, f"{len(live.stats())} {len(live.closed())}".encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "0 0"
    os.waitpid(pid, 0)
    engine.close()


@pytest.mark.parametrize(
    ("queries", "hits", "ratio"), [(None, None, None), (0, 0, None), (None, 3, None), (8, None, None), (8, 2, 0.25)]
)
def test_the_hit_ratio_is_the_backends_and_none_before_its_first_word(queries, hits, ratio):
    stats = EngineStats(model=ONE, prefix_reported_queries_tokens=queries, prefix_reported_hits_tokens=hits)
    assert stats.prefix_hit_ratio == ratio
