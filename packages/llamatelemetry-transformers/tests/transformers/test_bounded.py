from __future__ import annotations

import contextlib
import threading
import time

import pytest

from llamatelemetry.transformers.bounded import run_within


def test_what_it_returns_and_what_it_raises_reach_the_caller():
    assert run_within(10, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        run_within(10, lambda: 1 / 0)


def test_a_loop_without_end_is_ended():
    before = threading.active_count()

    def forever() -> None:
        while True:
            with contextlib.suppress(Exception):  # Who keeps every error does not keep this one.
                sum(range(1000))

    with pytest.raises(TimeoutError):
        run_within(0.1, forever)
    limit = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < limit, "the loop goes on"
        time.sleep(0.01)
