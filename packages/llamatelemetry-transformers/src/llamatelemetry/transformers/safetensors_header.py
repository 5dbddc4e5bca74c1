"""What a safetensors file holds, read from its header alone and checked against the file.

Eight bytes give the length of a JSON header, which gives each tensor's type, sizes and place; the
numbers follow. A file somebody downloaded is not to be trusted, so lengths are checked before
anything is allocated, and the places must fill the file without gap or overlap: what the header
sums up to is what the file holds.

Format: https://github.com/huggingface/safetensors/blob/main/README.md
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.transformers.files import open_regular_file, size_of
from llamatelemetry.transformers.untrusted_json import parse_json

_LENGTH: Final = struct.Struct("<Q")

# A model of hundreds of experts has some twenty thousand tensors, 120 bytes and 8 values each, when
# nothing splits its file. The format itself allows headers of 100 MB.
_MOST_HEADER_BYTES: Final = 2**23
_MOST_VALUES: Final = 2**19
_MOST_DIMENSIONS: Final = 32
_MOST_NAME_LENGTH: Final = 1024
_MOST_SIZE: Final = 2**63

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
_LFS_POINTER: Final = b"version https://git-lfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a safetensors file.

    Attributes:
        name: For example ``model.layers.0.self_attn.q_proj.weight``.
        dtype: How its numbers are stored, in the format's words: ``BF16``, ``U8``.
        shape: Its sizes.
        size_bytes: Bytes it takes in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_safetensors(path: Path) -> tuple[StoredTensor, ...]:
    """The tensors of a safetensors file, in the order in which it stores them.

    Raises:
        ModelFileError: The file is missing, unreadable, cut off, damaged, or not safetensors.
    """
    with open_regular_file(path) as file:
        try:
            header, data_bytes = _read_header(path, file)
        except OSError as error:
            raise ModelFileError(path, f"cannot be read: {error.strerror}") from error
    try:
        entries = parse_json(header, most_values=_MOST_VALUES)
    except ValueError as error:
        raise ModelFileError(path, f"its header {error}") from error
    if not isinstance(entries, dict):
        raise ModelFileError(path, "its header is not a JSON object")
    entries.pop(_METADATA, None)
    try:
        placed = sorted((_placed(name, entry) for name, entry in entries.items()), key=lambda item: item[0])
        _check_places([place for place, _ in placed], data_bytes)
    except ValueError as error:
        raise ModelFileError(path, str(error)) from error
    return tuple(tensor for _, tensor in placed)


def _read_header(path: Path, file: FileIO) -> tuple[bytes, int]:
    """The header's text, and how many bytes of the file come after it."""
    size = size_of(file)
    start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise ModelFileError(path, "is a Git LFS pointer: fetch the file itself with `git lfs pull`")
    if len(start) < _LENGTH.size:
        raise ModelFileError(path, f"is cut off: it has {size} bytes, and the length of its header takes 8")
    (length,) = _LENGTH.unpack_from(start)
    if length > _MOST_HEADER_BYTES:
        raise ModelFileError(
            path, f"is not safetensors: its header would have {length} bytes, and {_MOST_HEADER_BYTES} is the limit"
        )
    data_bytes = size - _LENGTH.size - length
    if data_bytes < 0:
        raise ModelFileError(path, f"is cut off: it has {size} bytes, and its header alone takes {length}")
    file.seek(_LENGTH.size)
    header = file.read(length)
    if len(header) != length or not header.startswith(b"{"):
        raise ModelFileError(path, "is not safetensors: its header does not start with {")
    return header, data_bytes


def _placed(name: str, entry: Any) -> tuple[tuple[int, int], StoredTensor]:
    """A header entry as the bytes it takes, from and to, and the tensor."""
    if len(name) > _MOST_NAME_LENGTH:
        raise ValueError(f"a tensor has a name of {len(name)} characters, and {_MOST_NAME_LENGTH} is the limit")
    match entry:
        case {"dtype": str() as dtype, "shape": list() as shape, "data_offsets": [start, end]} if (
            _DTYPE.fullmatch(dtype)
            and len(shape) <= _MOST_DIMENSIONS
            and _are_sizes([*shape, start, end])
            and start <= end
        ):
            tensor = StoredTensor(name=name, dtype=dtype, shape=tuple(shape), size_bytes=end - start)
        case _:
            raise ValueError(f"tensor {name!r} is not described by a dtype, a shape and data_offsets")
    bits, bits_there = _BITS.get(dtype), 8 * tensor.size_bytes
    if tensor.elements > bits_there or (bits is not None and bits * tensor.elements != bits_there):
        sizes = "x".join(map(str, shape))
        raise ValueError(f"tensor {name!r} takes {tensor.size_bytes} bytes, which are not {sizes} numbers of {dtype}")
    return (start, end), tensor


def _are_sizes(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value <= _MOST_SIZE for value in values)


def _check_places(places: list[tuple[int, int]], data_bytes: int) -> None:
    """Checks that tensors, in order, fill what is there."""
    edges = [(0, 0), *places]
    if any(before[1] != after[0] for before, after in pairwise(edges)):
        raise ValueError("its tensors overlap, or leave gaps between them")
    told = edges[-1][1]
    if told > data_bytes:
        raise ValueError(f"is cut off: it holds {data_bytes} bytes of numbers, and its header tells of {told}")
    if told < data_bytes:
        raise ValueError(f"has {data_bytes - told} bytes that belong to no tensor")
