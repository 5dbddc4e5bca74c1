"""Files that somebody else wrote, read within bounds."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Final, NoReturn

from llamatelemetry.errors import ModelFileError

__all__ = ["MOST_CONFIG_BYTES", "open_regular", "parse_object", "read_bounded", "read_object"]

_MIB: Final = 2**20
MOST_CONFIG_BYTES: Final = 4 * _MIB
"""Of a configuration; those of real models have a few kilobytes, with a chat template a few hundred."""
_FEWEST_BYTES: Final = {b"{": 24, b"[": 6}
"""Bytes of text for each object and each list in files that people make. As Python's they take 184 and 56."""
_ALWAYS_ALLOWED: Final = 4096
_LFS_POINTER: Final = b"version https://git-lfs"


@contextmanager
def open_regular(path: Path) -> Iterator[FileIO]:
    """Opens a regular file for reading, without a buffer.

    Raises:
        ModelFileError: It is missing, not a regular file or not readable.
    """
    try:
        # Asked before opening: opening a named pipe would wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(path, "is not a regular file")
        file = FileIO(path)
    except FileNotFoundError as error:
        raise ModelFileError(path, "does not exist") from error
    except (OSError, ValueError) as error:
        # ValueError: a path with a null character.
        raise ModelFileError(path, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    with file:
        yield file


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """All of a file.

    Args:
        path: The file.
        most_bytes: Most that it may have.

    Raises:
        ModelFileError: It cannot be read, or is larger.
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
    if data.startswith(_LFS_POINTER):
        raise ModelFileError(path, "is a Git LFS pointer: fetch the file itself with `git lfs pull`")
    return data


def read_object(path: Path, most_bytes: int = MOST_CONFIG_BYTES) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file.
        most_bytes: Most that it may have.

    Raises:
        ModelFileError: It cannot be read, is larger, or is not a JSON object.
    """
    return parse_object(path, read_bounded(path, most_bytes))


def parse_object(path: Path, data: bytes, what: str = "") -> dict[str, Any]:
    """The object that a JSON text stands for.

    Args:
        path: Where it was found, for errors.
        data: The text, in UTF-8.
        what: What of the file it is, for errors, as ``its header``; nothing for all of it.

    Raises:
        ModelFileError: It is not JSON, not an object, or would take far more memory than text.
    """
    what = f"{what} " if what else ""
    for bracket, fewest in _FEWEST_BYTES.items():
        count = data.count(bracket)
        if count > max(len(data) // fewest, _ALWAYS_ALLOWED):
            raise ModelFileError(
                path, f"{what}has {count} {bracket.decode()} in {len(data)} bytes, which no model needs"
            )
    try:
        found = json.loads(data.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(path, f"{what}is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelFileError(path, f"{what}is not a JSON object")
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
