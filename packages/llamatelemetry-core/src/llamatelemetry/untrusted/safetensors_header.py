"""What a safetensors file holds and where, read from its header alone and checked against the file.

Eight bytes give the length of a JSON header, which gives each tensor's type, sizes and place; the
numbers follow. A file somebody downloaded is not to be trusted, so lengths are checked before
anything is allocated, and the places must fill the file without gap or overlap: what the header
sums up to is what the file holds.

Format: https://github.com/huggingface/safetensors/blob/main/README.md
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.untrusted.files import LFS_POINTER, open_regular, refuse_pointer
from llamatelemetry.untrusted.json_values import parse_json

__all__ = ["StoredTensor", "read_header", "read_safetensors"]

_LENGTH: Final = struct.Struct("<Q")

# A model of hundreds of experts has some twenty thousand tensors, 120 bytes and 8 values each, when
# nothing splits its file. The format itself allows headers of 100 MB.
_MOST_HEADER_BYTES: Final = 2**23
_MOST_VALUES: Final = 2**19
_MOST_DIMENSIONS: Final = 32
_MOST_NAME_LENGTH: Final = 1024
_MOST_SIZE: Final = 2**48
_NAME_SHOWN: Final = 200

_BITS: Final = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
}
"""Bits of one number of each type. A type that is not here is newer than this list, and no error."""

_DTYPE: Final = re.compile(r"[A-Z0-9_]{1,32}")
_METADATA: Final = "__metadata__"
_FIX: Final = "download or write again what is cut off or damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a safetensors file.

    Attributes:
        name: For example ``model.layers.0.self_attn.q_proj.weight``.
        path: The file.
        dtype: How its numbers are stored, in the format's words: ``BF16``, ``U8``.
        shape: Its sizes, the length of a row last.
        start: Where it begins in the file, in bytes.
        size_bytes: Bytes it takes in the file.
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
    def end(self) -> int:
        """Where in the file the bytes after it begin."""
        return self.start + self.size_bytes


def read_safetensors(path: Path) -> tuple[StoredTensor, ...]:
    """The tensors of a safetensors file, in the order in which it stores them.

    Raises:
        ModelFileError: The file is missing, unreadable, cut off, damaged, or not safetensors.
    """
    with open_regular(path) as file:
        return read_header(path, file)


def read_header(path: Path, file: FileIO) -> tuple[StoredTensor, ...]:
    """The tensors of an open safetensors file, in the order in which it stores them.

    Args:
        path: Its name, for the tensors and for errors.
        file: The file; where it stands does not matter, and stays.

    Raises:
        ModelFileError: It is unreadable, cut off, damaged, or not safetensors.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        header = _header_text(path, file, size)
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from error
    try:
        entries = parse_json(header, most_values=_MOST_VALUES)
    except ValueError as error:
        raise ModelFileError(path, f"its header {error}") from error
    if not header.startswith(b"{"):
        raise ModelFileError(path, "is not safetensors: its header is not a JSON object, it does not start with {")
    entries.pop(_METADATA, None)
    base = _LENGTH.size + len(header)
    try:
        tensors = [_tensor(path, base, name, entry) for name, entry in entries.items()]
        tensors.sort(key=lambda tensor: (tensor.start, tensor.size_bytes))
        _check_places(tensors, base, size)
    except ValueError as error:
        raise ModelFileError(path, str(error)) from error
    return tuple(tensors)


def _header_text(path: Path, file: FileIO, size: int) -> bytes:
    start = os.pread(file.fileno(), len(LFS_POINTER), 0)
    refuse_pointer(path, start)
    if len(start) < _LENGTH.size:
        raise ModelFileError(path, f"is cut off: it has {size} bytes, and the length of its header takes 8")
    (length,) = _LENGTH.unpack_from(start)
    if length > _MOST_HEADER_BYTES:
        raise ModelFileError(
            path, f"is not safetensors: its header would have {length} bytes, and {_MOST_HEADER_BYTES} is the limit"
        )
    # Asked before reading, which makes room for all of it.
    header = os.pread(file.fileno(), length, _LENGTH.size) if _LENGTH.size + length <= size else b""
    if len(header) != length:
        raise ModelFileError(path, f"is cut off: it has {size} bytes, and its header alone takes {length}")
    return header


def _tensor(path: Path, base: int, name: str, entry: Any) -> StoredTensor:
    if len(name) > _MOST_NAME_LENGTH:
        raise ValueError(f"a tensor has a name of {len(name)} characters, and {_MOST_NAME_LENGTH} is the limit")
    shown = repr(name[:_NAME_SHOWN])
    match entry:
        case {"dtype": str() as dtype, "shape": list() as shape, "data_offsets": [start, end]} if (
            _DTYPE.fullmatch(dtype)
            and len(shape) <= _MOST_DIMENSIONS
            and _are_sizes([*shape, start, end])
            and start <= end
        ):
            tensor = StoredTensor(
                name=name, path=path, dtype=dtype, shape=tuple(shape), start=base + start, size_bytes=end - start
            )
        case _:
            raise ValueError(f"is damaged: its tensor {shown} is not described by a dtype, a shape and data_offsets")
    bits, bits_there = _BITS.get(dtype), 8 * tensor.size_bytes
    if tensor.elements > bits_there or (bits is not None and bits * tensor.elements != bits_there):
        sizes = "x".join(map(str, shape))
        told = f"{shown} takes {tensor.size_bytes} bytes, which are not {sizes} numbers of {dtype}"
        raise ValueError(f"is damaged: its tensor {told}")
    return tensor


def _are_sizes(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value <= _MOST_SIZE for value in values)


def _check_places(tensors: Sequence[StoredTensor], base: int, size: int) -> None:
    """Checks that tensors, in order, fill what is there."""
    at = base
    for tensor in tensors:
        if tensor.start != at:
            raise ValueError(f"is damaged: its tensors overlap, or leave gaps between them; {_FIX}")
        at = tensor.end
    if at > size:
        told = f"it holds {size - base} bytes of numbers, and its header tells of {at - base}"
        raise ValueError(f"is cut off: {told}; {_FIX}")
    if at < size:
        raise ValueError(f"has {size - at} bytes that belong to no tensor; {_FIX}")
