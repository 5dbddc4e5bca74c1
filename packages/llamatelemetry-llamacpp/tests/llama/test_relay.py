from __future__ import annotations

import gc
import weakref

import pytest

from llamatelemetry.llama.relay import relay


def direct(resume, sent):
    return resume(sent)


class Watch:
    """Steps that were taken, and how often it ended."""

    def __init__(self) -> None:
        self.items = []
        self.ends = 0

    def step(self, resume, sent):
        item = resume(sent)
        self.items.append(item)
        return item

    def ended(self) -> None:
        self.ends += 1


def test_what_it_yields_and_returns_is_the_others():
    def other():
        yield from "abc"
        return "done"

    def outer():
        return (yield from relay(other(), watch.step, watch.ended))

    watch = Watch()
    reading = outer()
    assert [next(reading), next(reading), next(reading)] == ["a", "b", "c"]
    with pytest.raises(StopIteration) as stopped:
        next(reading)
    assert stopped.value.value == "done"
    assert (watch.items, watch.ends) == (["a", "b", "c"], 1)


def test_what_is_sent_and_thrown_into_it_arrives():
    def other():
        got = yield "first"
        try:
            yield got
        except KeyError as error:
            yield error.args

    reading = relay(other(), direct, lambda: None)
    assert next(reading) == "first"
    assert reading.send("x") == "x"
    assert reading.throw(KeyError("lost")) == ("lost",)


def test_the_others_error_comes_through_unchanged_and_ends_it_once():
    error = ValueError("no")

    def other():
        yield 1
        raise error

    watch = Watch()
    reading = relay(other(), watch.step, watch.ended)
    next(reading)
    with pytest.raises(ValueError, match="no") as raised:
        next(reading)
    assert raised.value is error
    assert watch.ends == 1


@pytest.mark.parametrize("read", [0, 1])
@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_closing_or_forgetting_it_closes_the_other_and_ends_it_once(read, how):
    closed = []

    def other():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    watch = Watch()
    reading = relay(other(), watch.step, watch.ended)
    for _ in range(read):
        next(reading)
    if how == "closed":
        reading.close()
        reading.close()
    del reading
    gc.collect()
    # What was never started has nothing to clean up, relayed or not.
    assert (len(closed), watch.ends) == (read, 1)


def test_the_other_is_not_started_before_it_is_read():
    started = []

    def other():
        started.append(True)
        yield 1

    reading = relay(other(), direct, lambda: None)
    assert not started
    next(reading)
    assert started


def test_an_iterator_that_is_no_generator_will_do():
    reading = relay(iter([1, 2]), direct, lambda: None)
    assert next(reading) == 1
    with pytest.raises(KeyError):
        reading.throw(KeyError("k"))
    assert list(reading) == []


def test_it_keeps_nothing_alive_once_it_is_gone():
    class Source:
        def __iter__(self):
            return self

        def __next__(self):
            return 1

    source = Source()
    reading = relay(source, direct, lambda: None)
    next(reading)
    gone = weakref.ref(source)
    del source, reading
    assert gone() is None
