from __future__ import annotations

import threading
import time

from llamatelemetry.otel.bounded import Background


def test_calls_run_at_once_and_their_success_is_waited_for() -> None:
    meet = threading.Barrier(3, timeout=10)
    assert Background([meet.wait, meet.wait, meet.wait]).wait(time.monotonic() + 10)


def test_a_call_that_never_returns_is_given_up() -> None:
    never = threading.Event()
    started = time.monotonic()
    assert not Background([never.wait]).wait(time.monotonic() + 0.1)
    assert time.monotonic() - started < 5
    never.set()


def test_a_call_that_raises_or_says_false_is_not_a_success() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    deadline = time.monotonic() + 10
    assert not Background([fail]).wait(deadline)
    assert not Background([lambda: False]).wait(deadline)
    assert Background([lambda: None, lambda: True]).wait(deadline)
    assert Background([]).wait(deadline)
