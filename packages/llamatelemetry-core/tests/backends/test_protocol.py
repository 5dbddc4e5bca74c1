from __future__ import annotations

import threading

from llamatelemetry.backends.protocol import CancelToken


def test_callbacks_run_once_however_often_it_is_cancelled() -> None:
    token, calls = CancelToken(), []
    token.on_cancel(lambda: calls.append("a"))
    assert token.cancel()
    assert not token.cancel()
    assert calls == ["a"]
    assert token.cancelled


def test_a_late_listener_is_told_at_once() -> None:
    token, calls = CancelToken(), []
    token.cancel()
    token.on_cancel(lambda: calls.append("late"))
    assert calls == ["late"]


def test_a_disarmed_token_wakes_nobody() -> None:
    token, calls = CancelToken(), []
    token.on_cancel(lambda: calls.append("a"))
    token.disarm()
    token.cancel()
    assert calls == []


def test_many_threads_cancelling_at_once_agree_on_one() -> None:
    token, wins, calls = CancelToken(), [], []
    token.on_cancel(lambda: calls.append(1))
    threads = [threading.Thread(target=lambda: wins.append(token.cancel())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wins) == 1
    assert calls == [1]
