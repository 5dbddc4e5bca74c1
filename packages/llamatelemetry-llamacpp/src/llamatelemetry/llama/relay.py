"""A generator that stands in for another one, so that each of its steps can be watched.

Whoever reads it notices nothing: what is sent and thrown into it arrives, closing it closes the other,
and the other's answer is its own. It holds no context between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")

Step = Callable[[Callable[[Any], _T], Any], _T]
"""Takes a step: calls its first argument with the second, and returns what that returns."""


def relay(source: Iterator[_T], step: Step[_T], ended: Callable[[], None]) -> Generator[_T, Any, Any]:
    """Passes on what another generator, or an iterator, yields.

    Args:
        source: The other one.
        step: Takes every step of it, also those by which something is thrown into it.
        ended: Called once, when it is through, has failed or was closed; also where it was never read.

    Returns:
        A generator. The other one has not been started.
    """
    relaying = _relay(source, step, ended)
    # To its first yield: a generator that was never started would not notice that it is closed.
    next(relaying)
    return relaying


def _relay(source: Any, step: Step[Any], ended: Callable[[], None]) -> Generator[Any, Any, Any]:
    send = getattr(source, "send", None) or (lambda _sent: next(source))
    throw = getattr(source, "throw", None) or _raise
    close = getattr(source, "close", None) or (lambda: None)
    resume, sent = send, None
    try:
        yield None
        while True:
            item = step(resume, sent)
            try:
                resume, sent = send, (yield item)
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - it is the other generator's to deal with
                resume, sent = throw, error
    except StopIteration as stop:
        return stop.value
    finally:
        try:
            close()
        finally:
            ended()


def _raise(error: BaseException) -> Any:
    raise error
