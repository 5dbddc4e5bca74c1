"""Memory that ran out, however it is told: each allocator says it in its own words and its own class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from llamatelemetry.errors import OutOfMemoryError

_WORDS: Final = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "more than available memory",
    "cublas_status_alloc_failed",
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException | str) -> bool:
    """Whether an error, or what is left of one as text, says that memory ran out."""
    # torch's own class is a RuntimeError with the words in it, so that neither has to be imported.
    told = str(error).lower()
    return isinstance(error, MemoryError) or any(words in told for words in _WORDS)


@contextmanager
def explained_out_of_memory(device: Any, during: str, fix: str) -> Iterator[None]:
    """Has memory that runs out inside it be one kind of error, which says what to do.

    Args:
        device: Whose memory it is.
        during: When, as in "ran out of memory while ...".
        fix: What would help.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(str(device), during, fix) from error
