"""What libraries raise while they load, train and merge, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from llamatelemetry.errors import LlamatelemetryError, ModelFileError, OutOfMemoryError

__all__ = ["explained_loading", "explained_out_of_memory", "first_line"]

_WORDS: Final = ("out of memory", "can't allocate memory", "not enough memory", "std::bad_alloc")


@contextmanager
def explained_out_of_memory(during: str, fix: str) -> Iterator[None]:
    """Has memory that runs out inside it be one kind of error.

    Args:
        during: When, as in "ran out of memory while ...".
        fix: What would help.
    """
    try:
        yield
    except Exception as error:
        # torch's own class is a RuntimeError with the words in it.
        told = str(error).lower()
        if isinstance(error, MemoryError) or any(words in told for words in _WORDS):
            device = "the GPU" if "cuda" in told else "this machine"
            raise OutOfMemoryError(device, during, fix) from error
        raise


@contextmanager
def explained_loading(source: object) -> Iterator[None]:
    """Has a model or adapter that cannot be loaded be an error that names it."""
    fix = "load it in 4 bits, take a smaller model, or free what else holds memory"
    with explained_out_of_memory(f"while {source} was loaded", fix):
        try:
            yield
        except LlamatelemetryError:
            raise
        except (AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
            raise ModelFileError(source, f"cannot be loaded: {first_line(error)}") from error
        except Exception as error:
            if type(error).__name__ == "SafetensorError" or "size mismatch" in str(error):
                raise ModelFileError(source, f"cannot be loaded: {first_line(error)}") from error
            raise


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something; the error's name where none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
