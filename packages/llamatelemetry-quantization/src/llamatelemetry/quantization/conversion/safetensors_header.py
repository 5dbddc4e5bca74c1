"""Where the tensors are in a safetensors file, read from its header and held against the file.

Eight bytes give the length of a JSON header, which gives each tensor's type, sizes and place; the
numbers follow.

Format: https://github.com/huggingface/safetensors/blob/main/README.md
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.conversion.untrusted_files import parse_object

__all__ = ["StoredTensor", "read_header"]

_LENGTH: Final = struct.Struct("<Q")
# Some twenty thousand tensors at 120 bytes each have room. The format itself allows 100 MB.
_MOST_HEADER_BYTES: Final = 2**23
_MOST_DIMENSIONS: Final = 4
_MOST_SIZE: Final = 2**48
_WIDTHS: Final = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a safetensors file.

    Attributes:
        name: For example ``model.layers.0.self_attn.q_proj.weight``.
        path: The file.
        dtype: How its numbers are stored, in the format's words: ``BF16``.
        shape: Its sizes, the length of a row last.
        start: Where it begins in the file, in bytes.
        size_bytes: Bytes that it takes.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes of a number; 0 of a type that is not converted."""
        return _WIDTHS.get(self.dtype, 0)


def read_header(path: Path, file: FileIO) -> tuple[StoredTensor, ...]:
    """The tensors of a safetensors file, in the order in which it stores them.

    Raises:
        ModelFileError: It is cut off, damaged, or not safetensors.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        length_there = os.pread(file.fileno(), _LENGTH.size, 0)
        if len(length_there) < _LENGTH.size:
            raise ModelFileError(path, f"is cut off: it has {size} bytes, and the length of its header takes 8")
        (length,) = _LENGTH.unpack(length_there)
        base = _LENGTH.size + length
        if length > _MOST_HEADER_BYTES:
            raise ModelFileError(
                path, f"is not safetensors: its header would have {length} bytes, and {_MOST_HEADER_BYTES} is the limit"
            )
        header = os.pread(file.fileno(), length, _LENGTH.size)
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from error
    if len(header) < length:
        raise ModelFileError(path, f"is cut off: it has {size} bytes, and its header alone takes {length}")
    entries = parse_object(path, header, "its header")
    entries.pop("__metadata__", None)
    tensors = sorted((_tensor(path, name, entry, base) for name, entry in entries.items()), key=lambda each: each.start)
    edges = [(base, base), *((each.start, each.start + each.size_bytes) for each in tensors)]
    if any(before[1] != after[0] for before, after in pairwise(edges)):
        raise ModelFileError(path, "is damaged: its tensors overlap, or leave gaps between them. Download it again")
    if edges[-1][1] != size:
        raise ModelFileError(
            path,
            f"is cut off or damaged: its header tells of {edges[-1][1]} bytes, and it has {size}. Download it again",
        )
    return tuple(tensors)


def _tensor(path: Path, name: str, entry: Any, base: int) -> StoredTensor:
    match entry:
        case {"dtype": str() as dtype, "shape": list() as shape, "data_offsets": [int() as start, int() as end]} if (
            len(dtype) <= 32
            and len(shape) <= _MOST_DIMENSIONS
            and all(type(each) is int and 0 <= each <= _MOST_SIZE for each in (*shape, start, end))
            and start <= end
        ):
            found = StoredTensor(
                name=name, path=path, dtype=dtype, shape=tuple(shape), start=base + start, size_bytes=end - start
            )
        case _:
            raise ModelFileError(
                path, f"is damaged: its tensor {name[:200]!r} is not described by a dtype, a shape and data_offsets"
            )
    if found.width and found.elements * found.width != found.size_bytes:
        raise ModelFileError(
            path, f"is damaged: {name[:200]!r} takes {found.size_bytes} bytes, which are not {shape} numbers of {dtype}"
        )
    return found
