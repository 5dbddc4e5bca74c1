"""Opening what a downloaded folder names: regular files only, and every failure in one kind of error."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

from llamatelemetry.errors import ModelFileError

__all__ = ["LFS_POINTER", "open_regular", "read_bounded", "refuse_pointer"]

LFS_POINTER: Final = b"version https://git-lfs"
"""What stands in place of a file of a repository that was cloned without Git LFS, at its start."""


@contextmanager
def open_regular(path: Path, instead: str = "") -> Iterator[FileIO]:
    """Opens a regular file, or what a link to one leads to, for reading, without a buffer. Never waits for a writer.

    Args:
        path: The file.
        instead: What to give where it is no regular file, for the error, as ``give a .gguf file``.

    Raises:
        ModelFileError: It is missing, not a regular file or not readable.
    """
    try:
        # Asked before opening, which alone waits for a pipe's writer and rewinds a tape.
        _check_regular(path, path.stat(), instead)
        file = FileIO(path, opener=_open)
    except FileNotFoundError as error:
        raise ModelFileError(path, "does not exist") from error
    except (OSError, ValueError) as error:
        # ValueError: a path with a null character.
        raise ModelFileError(path, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    with file:
        # Something else may have taken the path since it was asked.
        _check_regular(path, os.fstat(file.fileno()), instead)
        yield file


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """All of a file.

    Args:
        path: The file.
        most_bytes: Most that it may have.

    Raises:
        ModelFileError: It cannot be read, is larger, or is a pointer of Git LFS.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise ModelFileError(path, f"has {size} bytes, and {most_bytes} is the most that such a file needs")
        parts = []
        left = size
        try:
            while left and (part := file.read(left)):
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise ModelFileError(path, f"cannot be read: {error.strerror}") from error
    data = b"".join(parts)
    refuse_pointer(path, data)
    return data


def refuse_pointer(path: Path, start: bytes) -> None:
    """Holds a file not to be a pointer of Git LFS.

    Args:
        path: The file.
        start: What it starts with: as much as :data:`LFS_POINTER` has, or more.

    Raises:
        ModelFileError: It is one.
    """
    if start.startswith(LFS_POINTER):
        raise ModelFileError(path, "is a Git LFS pointer: fetch the file itself with `git lfs pull`")


def _check_regular(path: Path, status: os.stat_result, instead: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError(path, "is not a regular file" + (f"; {instead}" if instead else ""))


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
