from __future__ import annotations

import threading
import time

import pytest

from llamatelemetry.quantization.crew import done_by


def test_every_piece_is_done_once():
    done: list[int] = []
    with done_by([done.append, done.append, done.append], range(1000)) as results:
        given = list(results)

    assert sorted(given) == sorted(done) == list(range(1000))


def test_what_a_worker_raises_is_raised_where_the_pieces_are_taken():
    def fails(piece):
        if piece == 3:
            raise ValueError("three")

    before = threading.active_count()
    with pytest.raises(ValueError, match="three"), done_by([fails, fails], range(10**9)) as results:
        for _ in results:
            pass
    assert threading.active_count() == before


def test_whoever_leaves_early_waits_for_the_pieces_that_are_being_done_and_no_longer():
    done: list[int] = []

    def slowly(piece):
        time.sleep(0.01)
        done.append(piece)

    with done_by([slowly], range(10**9)) as results:
        next(results)
    count = len(done)
    time.sleep(0.05)

    assert len(done) == count < 100


def test_pieces_that_cannot_be_made_are_an_error_too():
    def pieces():
        yield 1
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"), done_by([lambda _: None], pieces()) as results:
        list(results)
