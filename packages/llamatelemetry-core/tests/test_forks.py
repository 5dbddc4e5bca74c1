"""What is done in a child process, in real ones."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from llamatelemetry import forks
from llamatelemetry.forks import after_fork


class Lock:
    """Notes what is done with it."""

    def __init__(self, name: bytes, notes: int) -> None:
        self._name = name
        self._notes = notes
        after_fork(self.reset)

    def reset(self) -> None:
        os.write(self._notes, self._name)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def fork_and_end() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_every_object_that_lives_is_reset_in_the_child_and_in_order(pipe: tuple[int, int]):
    reader, writer = pipe
    locks = [Lock(name, writer) for name in (b"a", b"b", b"c")]
    fork_and_end()
    assert os.read(reader, 16) == b"abc"
    assert len(locks) == 3


def test_one_that_cannot_be_reset_keeps_no_other_from_it(pipe: tuple[int, int]):
    class Broken:
        def reset(self) -> None:
            raise AttributeError("a name that is gone")

    reader, writer = pipe
    broken = Broken()
    after_fork(broken.reset)
    kept = Lock(b"a", writer)
    fork_and_end()
    assert os.read(reader, 16) == b"a"
    assert kept


def test_nobody_is_kept_alive_nor_remembered(pipe: tuple[int, int]):
    gc.collect()  # What other tests left to be found counts neither before nor after.
    before = len(forks._methods)
    locks = [Lock(b"x", pipe[1]) for _ in range(1000)]
    assert len(forks._methods) == before + 1000
    del locks
    gc.collect()
    assert len(forks._methods) == before
