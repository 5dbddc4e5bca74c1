"""JSON and safetensors headers that somebody else wrote, read within bounds.

An adapter is downloaded like a model. So what it could cost is known before anything is allocated, and what its
header tells must be what the file holds.

Format: https://github.com/huggingface/safetensors/blob/main/README.md
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NoReturn

from llamatelemetry.errors import ModelFileError

__all__ = ["StoredTensor", "open_regular", "read_object", "read_tensors"]

_MOST_BYTES: Final = 2**20
_MOST_HEADER_BYTES: Final = 2**23
"""The largest adapters have some ten thousand tensors, at 150 bytes each."""
_FEWEST_BYTES: Final = {b"{": 24, b"[": 6}
"""Bytes of text for each object and each list in files that people make. As Python's they take 184 and 56."""
_ALWAYS_ALLOWED: Final = 4096
_LENGTH_BYTES: Final = 8
_MOST_DIMENSIONS: Final = 4
_MOST_SIZE: Final = 2**48
_WIDTHS: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_LFS_POINTER: Final = b"version https://git-lfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a safetensors file.

    Attributes:
        name: Its name.
        dtype: How its numbers are stored, in the format's words: ``BF16``.
        shape: Its sizes.
        size_bytes: Bytes that it takes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


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
    except (OSError, ValueError) as error:  # ValueError: a path with a null character.
        raise ModelFileError(path, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    with file:
        yield file


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file of at most a megabyte holds.

    Raises:
        ModelFileError: It cannot be read, is larger, or is not a JSON object.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MOST_BYTES:
            raise ModelFileError(path, f"has {size} bytes, and {_MOST_BYTES} is the most that such a file needs")
        return _parse(path, _read(path, file, 0, size), "")


def read_tensors(path: Path) -> tuple[StoredTensor, ...]:
    """The tensors of a safetensors file, in the order in which it stores them.

    Raises:
        ModelFileError: It cannot be read, is cut off, damaged, or not safetensors.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = _read(path, file, 0, max(_LENGTH_BYTES, len(_LFS_POINTER)))
        if start.startswith(_LFS_POINTER):
            raise ModelFileError(path, "is a Git LFS pointer: fetch the file itself with `git lfs pull`")
        length = int.from_bytes(start[:_LENGTH_BYTES], "little")
        base = _LENGTH_BYTES + length
        if length > _MOST_HEADER_BYTES:
            fix = f"its header would have {length} bytes, and {_MOST_HEADER_BYTES} is the limit"
            raise ModelFileError(path, f"is not safetensors: {fix}")
        if base > size:
            raise ModelFileError(path, f"is cut off: it has {size} bytes, and its header ends at {base}")
        entries = _parse(path, _read(path, file, _LENGTH_BYTES, length), "its header ")
    entries.pop("__metadata__", None)
    placed = sorted((_placed(path, name, entry) for name, entry in entries.items()), key=lambda each: each[0])
    edges = [(0, 0), *(place for place, _ in placed)]
    if any(before[1] != after[0] for before, after in pairwise(edges)) or base + edges[-1][1] != size:
        raise ModelFileError(path, "is cut off or damaged: its tensors do not fill it. Fetch or train it again")
    return tuple(tensor for _, tensor in placed)


def _placed(path: Path, name: str, entry: Any) -> tuple[tuple[int, int], StoredTensor]:
    """A header's entry as the bytes it takes, from and to, and the tensor."""
    match entry:
        case {"dtype": str() as dtype, "shape": list() as shape, "data_offsets": [int() as start, int() as end]} if (
            len(dtype) <= 32
            and len(shape) <= _MOST_DIMENSIONS
            and all(type(each) is int and 0 <= each <= _MOST_SIZE for each in (*shape, start, end))
            and start <= end
        ):
            tensor = StoredTensor(name=name, dtype=dtype, shape=tuple(shape), size_bytes=end - start)
        case _:
            raise ModelFileError(
                path, f"is damaged: its tensor {name[:200]!r} is not described by a dtype, a shape and data_offsets"
            )
    if dtype in _WIDTHS and tensor.elements * _WIDTHS[dtype] != tensor.size_bytes:
        told = f"{name[:200]!r} takes {tensor.size_bytes} bytes, which are not {shape} numbers of {dtype}"
        raise ModelFileError(path, f"is damaged: {told}")
    return (start, end), tensor


def _read(path: Path, file: FileIO, start: int, count: int) -> bytes:
    try:
        return os.pread(file.fileno(), count, start)
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from error


def _parse(path: Path, data: bytes, what: str) -> dict[str, Any]:
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
