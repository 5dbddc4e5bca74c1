"""Opening what a checkpoint folder names: regular files only, and every failure in one kind of error."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from llamatelemetry.errors import ModelFileError


@contextmanager
def open_regular_file(path: Path) -> Iterator[FileIO]:
    """Opens a regular file for reading, without a buffer.

    Raises:
        ModelFileError: It is missing, not a regular file or not readable.
    """
    try:
        # Asked before opening: opening a named pipe would wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(path, "is not a regular file")
        file = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise ModelFileError(path, "does not exist") from error
    except (OSError, ValueError) as error:
        # ValueError: a path with a null character.
        raise ModelFileError(path, f"cannot be opened: {error}") from error
    with file:
        yield file


def size_of(file: FileIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size
