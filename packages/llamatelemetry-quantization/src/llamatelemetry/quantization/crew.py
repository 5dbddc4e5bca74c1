"""Threads that do pieces of work until none is left, one fails, or nobody wants the result any more."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

__all__ = ["done_by"]

_Piece = TypeVar("_Piece")
_FINISHED: Final = object()


@contextmanager
def done_by(workers: Iterable[Callable[[_Piece], None]], pieces: Iterable[_Piece]) -> Iterator[Iterator[_Piece]]:
    """Has a thread for each worker do the pieces; gives them as they are done, in any order.

    What a worker raises is raised where the pieces are taken. On leaving, for whatever reason, threads
    finish the piece that they are at and are gone.
    """
    crew = _Crew(pieces)
    threads = [
        threading.Thread(target=crew.work, args=(worker,), name=f"llamatelemetry-quantize-{number}")
        for number, worker in enumerate(workers)
    ]
    started: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        yield crew.results(len(threads))
    finally:
        crew.stopped = True
        for thread in started:
            thread.join()


class _Crew(Generic[_Piece]):
    def __init__(self, pieces: Iterable[_Piece]) -> None:
        self.stopped = False
        self._pieces = iter(pieces)
        self._taking = threading.Lock()
        self._done: queue.SimpleQueue[object] = queue.SimpleQueue()

    def work(self, worker: Callable[[_Piece], None]) -> None:
        try:
            while (piece := self._next()) is not _FINISHED:
                worker(piece)  # type: ignore[arg-type]  # Anything but the mark that ends it is a piece.
                self._done.put(piece)
        except BaseException as error:  # noqa: BLE001  The thread that waits raises it.
            self.stopped = True
            self._done.put(_Failure(error))
        finally:
            self._done.put(_FINISHED)

    def _next(self) -> object:
        with self._taking:
            return _FINISHED if self.stopped else next(self._pieces, _FINISHED)

    def results(self, workers: int) -> Iterator[_Piece]:
        while workers:
            match self._done.get():
                case _Failure() as failure:
                    raise failure.error
                case result if result is _FINISHED:
                    workers -= 1
                case result:
                    yield result  # type: ignore[misc]  # As above.


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error
