"""Keeps what libraries print off standard output, where only results belong, and their deprecations to themselves."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, Final

__all__ = ["without_bars", "without_deprecations", "without_prints"]

_log: Final = logging.getLogger(__name__)


@contextmanager
def without_prints() -> Iterator[None]:
    """Has what is printed meanwhile be lines of the log, and deprecations nothing."""
    printed = _Lines()
    with redirect_stdout(printed), without_deprecations():
        yield
    printed.finish()


@contextmanager
def without_deprecations(*, prints: bool = True) -> Iterator[None]:
    """Passes over what libraries warn each other of, which a caller can do nothing about.

    Args:
        prints: Whether what is printed stays where it goes; standard error otherwise.
    """
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        with redirect_stdout(sys.stdout if prints else sys.stderr):
            yield


@contextmanager
def without_bars(transformers: Any) -> Iterator[None]:
    """Has transformers draw no bars meanwhile: a pipeline draws its own."""
    logging_of_it = transformers.utils.logging
    drawn = logging_of_it.is_progress_bar_enabled()
    logging_of_it.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging_of_it.enable_progress_bar()


class _Lines(io.TextIOBase):
    """A text stream whose lines go to the log."""

    def __init__(self) -> None:
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            _log.info("%s", line)
        return len(text)

    def finish(self) -> None:
        self.write("\n")
