from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from llamatelemetry.otel import batch
from llamatelemetry.otel.batch import Courier, close_all, flush_all


class Keeper:
    """A sender that keeps what it gets, and can be made to hang, fail or refuse."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error: Exception | None = None
        self.closed = 0
        self.disowned = 0

    def send(self, items: Sequence[int]) -> int:
        self.entered.set()
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.batches.append(list(items))
        return len(items)

    def close(self) -> None:
        self.closed += 1

    def disown(self) -> None:
        self.disowned += 1

    @property
    def items(self) -> list[int]:
        return [item for items in self.batches for item in items]


@contextmanager
def courier_to(keeper: Keeper, delay_s: float = 60.0, **sizes: int) -> Iterator[Courier[int]]:
    courier: Courier[int] = Courier(
        signal="traces", exporter="here", sender=keeper, renew=Keeper, delay_s=delay_s, **sizes
    )
    try:
        yield courier
    finally:
        keeper.gate.set()
        close_all([courier], time.monotonic() + 10)


def soon(seconds: float = 10) -> float:
    return time.monotonic() + seconds


def test_what_is_offered_arrives_in_order_when_flushed() -> None:
    keeper = Keeper()
    with courier_to(keeper) as courier:
        for item in range(1000):
            courier.offer(item)
        assert flush_all([courier], soon())
        assert keeper.items == list(range(1000))
        assert max(len(items) for items in keeper.batches) <= batch.BATCH_SIZE
        account = courier.delivery()
        assert (account.accepted, account.exported, account.lost) == (1000, 1000, 0)


def test_a_full_batch_is_sent_without_waiting_for_the_delay() -> None:
    keeper = Keeper()
    with courier_to(keeper) as courier:
        for item in range(batch.BATCH_SIZE):
            courier.offer(item)
        assert keeper.entered.wait(10)


def test_a_smaller_queue_and_smaller_batches_can_be_asked_for() -> None:
    keeper = Keeper()
    keeper.gate.clear()
    with courier_to(keeper, queue_size=4, batch_size=2) as courier:
        courier.offer(0)
        courier.offer(1)
        assert keeper.entered.wait(10), "two make a batch"
        for item in range(2, 12):
            courier.offer(item)
        keeper.gate.set()
        assert flush_all([courier], soon())
        assert keeper.batches == [[0, 1], [8, 9], [10, 11]]
        assert courier.delivery().lost == 6


def test_a_single_item_is_sent_after_the_delay() -> None:
    keeper = Keeper()
    with courier_to(keeper, delay_s=0.01) as courier:
        courier.offer(1)
        assert keeper.entered.wait(10)


def test_a_courier_with_nothing_to_carry_has_no_thread() -> None:
    before = threading.active_count()
    with courier_to(Keeper()) as courier:
        assert threading.active_count() == before
        assert flush_all([courier], soon())


def test_past_the_queue_size_the_oldest_are_lost_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper()
    keeper.gate.clear()
    with courier_to(keeper, delay_s=0.0) as courier:
        courier.offer(-1)
        assert keeper.entered.wait(10)
        with caplog.at_level(logging.WARNING):
            for item in range(batch.QUEUE_SIZE + 5):
                courier.offer(item)
        keeper.gate.set()
        assert flush_all([courier], soon())
        assert keeper.items == [-1, *range(5, batch.QUEUE_SIZE + 5)]
        assert courier.delivery().lost == 5
        assert [record.message for record in caplog.records] == [
            "the queue to here is full: the oldest traces are being dropped"
        ]


def test_flush_gives_up_at_its_deadline_and_says_so() -> None:
    keeper = Keeper()
    keeper.gate.clear()
    with courier_to(keeper) as courier:
        courier.offer(1)
        started = time.monotonic()
        assert not flush_all([courier], soon(0.2))
        assert time.monotonic() - started < 5
        keeper.gate.set()
        assert flush_all([courier], soon())


def test_flush_says_when_something_was_refused() -> None:
    keeper = Keeper()
    keeper.error = RuntimeError("no")
    with courier_to(keeper) as courier:
        courier.offer(1)
        assert not flush_all([courier], soon())
        assert courier.delivery().lost == 1
        keeper.error = None
        courier.offer(2)
        assert flush_all([courier], soon()), "what was lost before is not held against what came after"


def test_an_item_that_comes_while_the_thread_is_made_starts_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[threading.Thread] = []

    class Collecting(threading.Thread):
        """Where garbage is found, a generator that nobody reads any more ends its span; that may be anywhere."""

        def __init__(self, **how: Any) -> None:
            super().__init__(**how)
            made.append(self)
            if len(made) == 1:
                courier.offer(2)

    keeper = Keeper()
    with courier_to(keeper) as courier:
        monkeypatch.setattr(threading, "Thread", Collecting)
        courier.offer(1)
        assert flush_all([courier], soon())
        assert [thread.ident is not None for thread in made] == [False, True]
    assert keeper.items == [1, 2]


def test_closing_sends_what_is_queued_and_ends_the_thread() -> None:
    keeper = Keeper()
    before = threading.active_count()
    with courier_to(keeper) as courier:
        courier.offer(1)
        (account,) = close_all([courier], soon())
        assert (account.exported, account.lost) == (1, 0)
        assert threading.active_count() == before
        assert keeper.closed == 1


def test_closing_twice_changes_nothing() -> None:
    keeper = Keeper()
    with courier_to(keeper) as courier:
        courier.offer(1)
        assert close_all([courier], soon()) == close_all([courier], soon())
        assert keeper.closed == 1


def test_closing_while_the_sender_hangs_counts_the_batch_under_way_and_the_queue_as_lost() -> None:
    keeper = Keeper()
    keeper.gate.clear()
    with courier_to(keeper, delay_s=0.0) as courier:
        courier.offer(0)
        assert keeper.entered.wait(10)
        for item in range(7):
            courier.offer(item)
        started = time.monotonic()
        (account,) = close_all([courier], soon(0.3))
        assert time.monotonic() - started < 5
        assert (account.accepted, account.exported, account.lost) == (8, 0, 8)
        assert keeper.closed == 1, "the sender is told to stop"
        keeper.gate.set()
        courier.join(soon())
        assert courier.delivery() == account, "what the sender does later changes nothing"


def test_a_sender_that_was_told_to_stop_gets_no_further_batch() -> None:
    keeper = Keeper()
    keeper.gate.clear()
    with courier_to(keeper, delay_s=0.0) as courier:
        for item in range(3 * batch.BATCH_SIZE):
            courier.offer(item)
        assert keeper.entered.wait(10)
        close_all([courier], soon(0.3))
        keeper.gate.set()
        assert courier.join(soon())
        assert len(keeper.batches) == 1


def test_one_hanging_sender_does_not_take_another_ones_time() -> None:
    hanging, willing = Keeper(), Keeper()
    hanging.gate.clear()
    with courier_to(hanging) as stuck, courier_to(willing) as free:
        stuck.offer(1)
        free.offer(1)
        lost = [account.lost for account in close_all([stuck, free], soon(0.5))]
        assert lost == [1, 0]


def test_what_comes_after_closing_is_counted_as_lost() -> None:
    with courier_to(Keeper()) as courier:
        close_all([courier], soon())
        courier.offer(1)
        assert courier.delivery().lost == 1


def test_a_collecting_courier_collects_before_each_flush_and_once_at_the_end() -> None:
    keeper = Keeper()
    rounds = iter(range(100))
    courier: Courier[int] = Courier(
        signal="metrics",
        exporter="here",
        sender=keeper,
        renew=Keeper,
        delay_s=60,
        collect=lambda: courier.offer(next(rounds)),
    )
    courier.start()
    assert flush_all([courier], soon())
    assert keeper.items == [0]
    (account,) = close_all([courier], soon())
    assert keeper.items == [0, 1]
    assert account.lost == 0


def test_what_was_still_being_collected_at_the_end_is_counted_as_one_lost_export() -> None:
    collecting, go_on = threading.Event(), threading.Event()

    def collect() -> None:
        collecting.set()
        go_on.wait(10)

    courier: Courier[int] = Courier(
        signal="metrics", exporter="here", sender=Keeper(), renew=Keeper, delay_s=60, collect=collect
    )
    courier.start()
    courier.ask()
    assert collecting.wait(5)
    (account,) = close_all([courier], soon(0.05))
    go_on.set()
    assert (account.accepted, account.exported, account.lost) == (1, 0, 1)
    assert courier.join(soon())


def test_an_item_that_cannot_be_told_takes_nothing_with_it(caplog: pytest.LogCaptureFixture) -> None:
    class Strict(Keeper):
        def send(self, items: Sequence[int]) -> int:
            if 5 in items:
                raise TypeError("5 has no form")
            return super().send(items)

    keeper = Strict()
    with courier_to(keeper) as courier:
        for number in range(10):
            courier.offer(number)
        assert not flush_all([courier], soon())
        assert keeper.items == [0, 1, 2, 3, 4, 6, 7, 8, 9]
        assert (courier.delivery().exported, courier.delivery().lost) == (9, 1)
    assert [record.message for record in caplog.records] == [
        "1 traces could not be sent to here: TypeError('5 has no form')"
    ]


def test_a_collector_that_raises_does_not_end_the_courier(caplog: pytest.LogCaptureFixture) -> None:
    def collect() -> None:
        raise ZeroDivisionError

    keeper = Keeper()
    courier: Courier[int] = Courier(
        signal="metrics", exporter="here", sender=keeper, renew=Keeper, delay_s=60, collect=collect
    )
    courier.start()
    courier.offer(1)
    assert flush_all([courier], soon())
    assert keeper.items == [1]
    close_all([courier], soon())
    assert "metrics could not be collected" in caplog.text


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_its_own_sender_and_leaves_the_parents_items_alone() -> None:
    keeper = Keeper()
    with courier_to(keeper) as courier:
        courier.offer(1)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                courier.offer(2)
                flushed = flush_all([courier], soon())
                sender = courier._sender
                seen = (flushed, keeper.items, keeper.disowned, isinstance(sender, Keeper) and sender.items)
                os.write(write, repr(seen).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        with os.fdopen(read) as pipe:
            said = pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        assert said == "(True, [], 1, [2])"
        assert flush_all([courier], soon())
        assert keeper.items == [1]
        assert keeper.disowned == 0
