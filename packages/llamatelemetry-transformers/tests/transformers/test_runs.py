"""The feed between the thread that makes tokens and the one that reads them."""

from __future__ import annotations

import threading
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import BackendError, StreamInterruptedError
from llamatelemetry.transformers import runs
from llamatelemetry.transformers.runs import TokenFeed


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_LIVENESS_S", 0.01)


def alive() -> bool:
    return True


@given(st.lists(st.integers(0, 2**31)))
def test_what_one_thread_puts_another_reads_in_order_until_the_end(tokens):
    feed = TokenFeed(alive)

    def write() -> None:
        for token in tokens:
            feed.put(token)
        feed.end()

    writer = threading.Thread(target=write)
    writer.start()
    read = list(feed)
    writer.join()
    assert read == tokens


def test_the_first_and_the_latest_token_have_their_moments():
    feed = TokenFeed(alive)
    assert feed.first_ns is feed.last_ns is None
    feed.put(1)
    first = feed.first_ns
    assert first is not None
    assert feed.last_ns == first
    feed.put(2)
    assert feed.first_ns == first
    assert feed.last_ns is not None
    assert feed.last_ns > first


def test_an_error_comes_after_the_tokens_that_were_made_before_it():
    feed = TokenFeed(alive)
    feed.put(1)
    feed.put(2)
    feed.end(BackendError("it broke"))
    tokens = iter(feed)
    assert list(islice(tokens, 2)) == [1, 2]
    with pytest.raises(BackendError, match="it broke"):
        next(tokens)


def test_a_feed_that_is_cut_gives_no_token_that_was_not_read_yet():
    feed = TokenFeed(alive)
    for token in range(5):
        feed.put(token)
    tokens = iter(feed)
    assert next(tokens) == 0
    feed.cut()
    feed.put(5)
    assert list(tokens) == []


def test_a_feed_that_is_cut_with_an_error_raises_it_and_the_first_cut_counts():
    feed = TokenFeed(alive)
    feed.put(1)
    feed.cut(BackendError("closed"))
    feed.cut()
    with pytest.raises(BackendError, match="closed"):
        list(feed)


def test_a_cut_wakes_a_reader_that_waits():
    feed = TokenFeed(alive)
    read: list[int] = []
    reader = threading.Thread(target=lambda: read.extend(feed))
    reader.start()
    feed.put(7)
    feed.cut()
    reader.join(10)
    assert not reader.is_alive()


@pytest.mark.usefixtures("impatient")
def test_a_reader_does_not_wait_for_a_writer_that_is_gone():
    feed = TokenFeed(lambda: False)
    feed.put(1)
    tokens = iter(feed)
    assert next(tokens) == 1
    with pytest.raises(StreamInterruptedError, match="without a word"):
        next(tokens)


@pytest.mark.usefixtures("impatient")
def test_a_reader_waits_for_as_long_as_there_is_a_writer():
    asked = iter([True, True, True, False])
    feed = TokenFeed(lambda: next(asked))
    with pytest.raises(StreamInterruptedError):
        next(iter(feed))
    assert list(asked) == []


@pytest.mark.usefixtures("impatient")
def test_the_last_words_of_a_writer_that_ends_while_it_is_asked_after_are_heard():
    def ends_now() -> bool:
        if feed.first_ns is None:
            feed.put(1)
            feed.end()
        return False

    feed = TokenFeed(ends_now)
    assert list(feed) == [1]
