from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from llamatelemetry.otel.handover import Handover


class Receiver:
    """Where a handover leads to; closed it processes nothing until it is opened."""

    def __init__(self, limit: int = 100) -> None:
        self.seen: list[Any] = []
        self.lost: list[int] = []
        self.open = threading.Event()
        self.busy = threading.Event()
        self.open.set()
        self.handover = Handover(self._process, self.lost.append, limit)

    def put(self, record: Any) -> None:
        """Hands something over: what, makes no difference here."""
        self.handover.put(None, record)  # type: ignore[arg-type]

    def _process(self, span: Any, record: Any) -> None:
        self.busy.set()
        self.open.wait(10)
        self.seen.append(record)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.open.set()
    receiver.handover.stop(5)


def test_what_is_put_is_processed_in_its_order_by_one_thread(receiver: Receiver) -> None:
    threads = threading.active_count()
    for number in range(50):
        receiver.put(number)
    assert threading.active_count() == threads + 1
    assert receiver.handover.flush(5)
    assert receiver.seen == list(range(50))


def test_what_was_processed_is_not_kept_until_the_next_comes() -> None:
    class Record:
        pass

    gone = threading.Event()
    handover = Handover(lambda *_: None, lambda _: None, 100)
    record = Record()
    weakref.finalize(record, gone.set)
    handover.put(None, record)  # type: ignore[arg-type]
    del record
    assert gone.wait(5)
    handover.stop(5)


def test_the_oldest_is_given_up_and_counted_when_too_many_wait() -> None:
    receiver = Receiver(limit=3)
    receiver.open.clear()
    receiver.put("busy with it")
    assert receiver.busy.wait(5)
    for number in range(5):
        receiver.put(number)
    receiver.open.set()
    assert receiver.handover.flush(5)
    assert receiver.seen == ["busy with it", 2, 3, 4]
    assert sum(receiver.lost) == 2
    assert receiver.handover.stop(5) == 2


def test_a_flush_waits_no_longer_than_it_may(receiver: Receiver) -> None:
    assert receiver.handover.flush(0)
    receiver.open.clear()
    receiver.put(1)
    assert not receiver.handover.flush(0.05)
    receiver.open.set()
    assert receiver.handover.flush(5)


def test_what_waits_when_it_is_stopped_or_comes_later_is_counted(receiver: Receiver) -> None:
    receiver.open.clear()
    receiver.put("busy with it")
    assert receiver.busy.wait(5)
    receiver.put("waits")
    assert receiver.handover.stop(0.05) == 1
    receiver.put("too late")
    assert receiver.handover.stop(0) == 2
    assert receiver.handover.flush(0)


def test_what_fails_silences_nothing_that_comes_after(caplog: pytest.LogCaptureFixture) -> None:
    def process(span: Any, record: Any) -> None:
        seen.append(record)
        assert len(seen) > 1, "the first fails"

    seen: list[Any] = []
    handover = Handover(process, lambda _: None, 10)
    for name in ("first", "second"):
        handover.put(None, name)  # type: ignore[arg-type]
    assert handover.flush(5)
    handover.stop(5)
    assert seen == ["first", "second"]
    assert "could not record a request" in caplog.text
    assert "the first fails" in caplog.text


def test_something_may_be_handed_over_in_the_middle_of_that(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Collecting(threading.Thread):
        """Where garbage is found, a stream that nobody reads any more ends; that may be anywhere."""

        def start(self) -> None:
            receiver.put("abandoned")
            super().start()

    thread = threading.Thread(target=receiver.put, args=("read",), daemon=True)
    monkeypatch.setattr("llamatelemetry.otel.handover.threading.Thread", Collecting)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for itself"
    assert receiver.handover.flush(5)
    assert sorted(receiver.seen) == ["abandoned", "read"]


def test_where_no_thread_can_be_started_nothing_is_raised_and_the_next_record_tries_again(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(threading.Thread):
        """What a machine that is out of threads, and an interpreter that is ending, say to a new one."""

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as out_of_threads:
        out_of_threads.setattr("llamatelemetry.otel.handover.threading.Thread", Refused)
        receiver.put(1)
        assert not receiver.handover.flush(5)
    receiver.put(2)
    assert receiver.handover.flush(5)
    assert receiver.seen == [1, 2]


def test_what_no_thread_could_be_started_for_is_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver()
    monkeypatch.setattr("llamatelemetry.otel.handover.threading.Thread.start", _refuse)
    receiver.put(1)
    assert receiver.handover.stop(5) == 1


def _refuse(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread at interpreter shutdown")


def test_nothing_of_it_is_left_once_it_is_stopped() -> None:
    receiver = Receiver()
    receiver.put(1)
    receiver.handover.stop(5)
    gone = weakref.ref(receiver.handover)
    del receiver
    gc.collect()
    assert gone() is None
