"""The bytes of a GGUF header, checked one by one. :mod:`llamatelemetry.llama.gguf` says what they mean."""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.llama.ggml_types import TENSOR_TYPES
from llamatelemetry.untrusted.files import LFS_POINTER, open_regular

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_HEADER_BYTES: Final = 24
_DEFAULT_ALIGNMENT: Final = 32
_MAX_DIMENSIONS: Final = 4
"""GGML_MAX_DIMS in ggml.h."""

# Far beyond what any model has (hundreds of keys, thousands of tensors, under a million tokens and
# merges), and small enough to bound the time and memory that a hostile file can cost.
_MAX_KEYS: Final = 8192
_MAX_TENSORS: Final = 16384
_MAX_NAME_BYTES: Final = 256
_MAX_WALKED: Final = 2**22
_MAX_DEPTH: Final = 4
_MAX_KEPT_BYTES: Final = 2**20
_MAX_KEPT_NUMBERS: Final = 1024
_PYTHON_NUMBER_BYTES: Final = 40
_WINDOW_BYTES: Final = 2**20
_WALK_STEP: Final = 64
_MOST_ELEMENTS_PER_BYTE: Final = 16

_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_TYPE_NAMES: Final = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool"),
    *("string", "array", "uint64", "int64", "float64"),
)
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

_LOOKS_LIKE: Final = (
    (b"PK\x03\x04", "a zip archive, such as a PyTorch checkpoint"),
    (LFS_POINTER, "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (b"\x1f\x8b", "gzip data: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd data: unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (b"lmgg", "GGML, a format from before GGUF: convert it"),
    (b"fmgg", "GGMF, a format from before GGUF: convert it"),
    (b"tjgg", "GGJT, a format from before GGUF: convert it"),
    (b"\0\0\0\0\0\0\0\0", "zeros: a download that never got its first bytes"),
)


@dataclass(frozen=True, slots=True)
class Unread:
    """A metadata value left in the file because of its size.

    Attributes:
        type: Type of its elements; ``string`` for the vocabulary, ``bytes`` for one long text.
        count: How many there are.
        offset: Where the first one starts in the file, in bytes.
    """

    type: str
    count: int
    offset: int


Value = bool | int | float | str | tuple[bool | int | float, ...] | Unread
"""What a metadata key can hold."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor.

    Attributes:
        name: For example ``blk.0.attn_q.weight``.
        shape: Its sizes in GGML's order: the first is the length of a row.
        type: How its numbers are stored, such as ``Q4_K``.
        offset: Where it starts in the file, in bytes.
        size_bytes: Its size; None for a type this version does not know.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size_bytes: int | None

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Everything before the weights."""

    size_bytes: int
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]


@contextmanager
def open_model_file(path: Path) -> Iterator[FileIO]:
    """Opens a regular file for reading.

    Raises:
        ModelFileError: It is missing, not a regular file or not readable.
    """
    if os.path.isdir(path):  # noqa: PTH112 - pathlib's raises for paths that it cannot look at
        raise ModelFileError(path, "is a directory; give the .gguf file in it")
    with open_regular(path) as file:
        yield file


def read_header(path: Path) -> Header:
    """Reads and checks a header.

    Raises:
        ModelFileError: See :func:`llamatelemetry.llama.gguf.read_gguf`.
    """
    with open_model_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise ModelFileError(path, "is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _Reader(path, mapped, size).header()


class _Reader:
    """A position in the mapped file. Every method checks that what it reads is there."""

    def __init__(self, path: Path, mapped: mmap.mmap, size: int) -> None:
        self._path = path
        self._map = mapped
        self._size = size
        self._at = 0
        self._forgotten = 0
        self._walked = 0
        self._kept = 0

    def header(self) -> Header:
        version = self._version()
        if self._size < _HEADER_BYTES:
            raise self._cut_off("its header")
        tensor_count = self._number(_U64)
        key_count = self._number(_U64)
        # The shortest pair is an empty key with a byte: 8 + 4 + 1. The shortest tensor has an empty
        # name and no dimension: 8 + 4 + 4 + 8.
        self._check_count("metadata keys", key_count, 13, _MAX_KEYS)
        self._check_count("tensors", tensor_count, 24, _MAX_TENSORS)
        metadata: dict[str, Value] = {}
        for _ in range(key_count):
            key = self._name("a metadata key")
            if key in metadata:
                raise self._damaged(f"it has the metadata key {key!r} twice")
            metadata[key] = self._value(key)
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or not _is_power_of_two(alignment):
            raise self._damaged(f"its alignment is {alignment!r}, not a power of two")
        tensors = self._tensors(tensor_count, alignment)
        return Header(size_bytes=self._size, version=version, metadata=MappingProxyType(metadata), tensors=tensors)

    def _version(self) -> int:
        start = self._map[: 8 + 64]
        if not start.startswith(_MAGIC):
            raise ModelFileError(self._path, f"is not a GGUF file; it {_looks_like(start)}")
        if self._size < 8:
            raise self._cut_off("its header")
        (version,) = _U32.unpack_from(start, 4)
        if version in _VERSIONS:
            self._at = 8
            return int(version)
        if version and version & 0xFFFF == 0:
            raise ModelFileError(self._path, "is a big-endian GGUF file; only little-endian ones can be read")
        if version == 1:
            raise ModelFileError(self._path, "is a GGUF file of version 1, of 2023: convert the model again")
        raise ModelFileError(self._path, f"is a GGUF file of version {version}; versions 2 and 3 can be read")

    def _tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        found: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(count):
            name = self._name("a tensor")
            if name in found:
                raise self._damaged(f"it has the tensor {name!r} twice")
            dimensions = self._number(_U32)
            if dimensions > _MAX_DIMENSIONS:
                raise self._damaged(f"its tensor {name!r} has {dimensions} dimensions; {_MAX_DIMENSIONS} are possible")
            shape = tuple(self._number(_U64) for _ in range(dimensions))
            found[name] = shape, self._number(_U32), self._number(_U64)
        start = -(-self._at // alignment) * alignment
        tensors = tuple(self._tensor(name, *facts, start=start) for name, facts in found.items())
        self._check_places(tensors, start, alignment)
        return tensors

    def _check_places(self, tensors: Sequence[Tensor], start: int, alignment: int) -> None:
        """No byte is of two tensors, so that what they sum up to is what the file holds; llama.cpp is stricter."""
        at = start
        for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size_bytes or 0)):
            if (tensor.offset - start) % alignment:
                raise self._damaged(f"its tensor {tensor.name!r} is at no multiple of {alignment} bytes")
            if tensor.offset < at:
                raise self._damaged(f"its tensor {tensor.name!r} lies in another one")
            at = tensor.offset + (tensor.size_bytes or 0)

    def _tensor(self, name: str, shape: tuple[int, ...], number: int, offset: int, *, start: int) -> Tensor:
        known = TENSOR_TYPES.get(number)
        elements = math.prod(shape)
        if known is None:
            if elements > self._size * _MOST_ELEMENTS_PER_BYTE:
                raise self._damaged(f"its tensor {name!r} has {elements} elements")
            return Tensor(name, shape, f"type {number}", start + offset, None)
        if shape and shape[0] % known.block:
            raise self._damaged(f"its tensor {name!r} has rows of {shape[0]}, which {known.name} cannot store")
        size = elements // known.block * known.block_bytes
        if start + offset + size > self._size:
            raise self._cut_off(f"its tensor {name!r}, which ends at byte {start + offset + size}")
        return Tensor(name, shape, known.name, start + offset, size)

    def _value(self, key: str) -> Value:
        number = self._number(_U32)
        if number == _STRING:
            return self._text(key)
        if number == _ARRAY:
            return self._array(key)
        scalar = self._scalar(number, key)
        value: bool | int | float = self._number(scalar)
        return value

    def _text(self, key: str) -> str | Unread:
        length = self._number(_U64)
        if length > self._size - self._at:
            raise self._cut_off(f"{key!r}, a text of {length} bytes")
        start = self._at
        self._at += length
        if not self._may_keep(length):
            return Unread("bytes", length, start)
        return self._map[start : self._at].decode(errors="replace")

    def _array(self, key: str) -> tuple[bool | int | float, ...] | Unread:
        number = self._number(_U32)
        count = self._number(_U64)
        start = self._at
        self._skip(number, count, key, depth=1)
        # After the skip: by now the count is known to be true.
        scalar = _SCALARS.get(number)
        if scalar is None or count > _MAX_KEPT_NUMBERS or not self._may_keep(count * _PYTHON_NUMBER_BYTES):
            return Unread(_TYPE_NAMES[number], count, start)
        return tuple(value for (value,) in scalar.iter_unpack(self._map[start : self._at]))

    def _skip(self, number: int, count: int, key: str, depth: int) -> None:
        """Moves behind an array's elements, in one step where they have one size."""
        if number == _STRING:
            self._skip_strings(count, key)
        elif number == _ARRAY:
            if depth == _MAX_DEPTH:
                raise self._damaged(f"{key!r} nests arrays deeper than {_MAX_DEPTH}")
            self._walk(count, 12, key)
            for _ in range(count):
                self._skip(self._number(_U32), self._number(_U64), key, depth + 1)
        else:
            self._at += count * self._scalar(number, key).size
            if self._at > self._size:
                raise self._cut_off(f"{key!r}, an array of {count}")

    def _skip_strings(self, count: int, key: str) -> None:
        self._walk(count, 8, key)
        unpack, mapped, at = _U64.unpack_from, self._map, self._at
        try:
            while count:
                step = min(count, _WALK_STEP)
                for _ in range(step):
                    at += 8 + unpack(mapped, at)[0]
                count -= step
                self._forget(at)
        except (struct.error, OverflowError) as error:
            raise self._cut_off(f"{key!r}, an array of texts") from error
        if at > self._size:
            raise self._cut_off(f"{key!r}, an array of texts")
        self._at = at

    def _walk(self, count: int, least_bytes: int, key: str) -> None:
        """Allows a loop of ``count`` rounds, if the file can hold them and the budget has them."""
        self._check_count(f"elements in {key!r}", count, least_bytes, _MAX_WALKED - self._walked)
        self._walked += count

    def _forget(self, at: int) -> None:
        """Gives pages behind the position back: walking through a large file must not fill memory."""
        if at - self._forgotten > _WINDOW_BYTES and at <= self._size:
            start, self._forgotten = self._forgotten, at // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, start, self._forgotten - start)

    def _name(self, what: str) -> str:
        length = self._number(_U64)
        if length > _MAX_NAME_BYTES:
            raise self._damaged(f"the name of {what} has {length} bytes; at most {_MAX_NAME_BYTES} are possible")
        if length > self._size - self._at:
            raise self._cut_off(f"the name of {what}")
        start = self._at
        self._at += length
        try:
            return self._map[start : self._at].decode()
        except UnicodeDecodeError as error:
            raise self._damaged(f"the name of {what} is not UTF-8") from error

    def _number(self, kind: struct.Struct) -> Any:
        try:
            (number,) = kind.unpack_from(self._map, self._at)
        except struct.error as error:
            raise self._cut_off("its header") from error
        self._at += kind.size
        return number

    def _scalar(self, number: int, key: str) -> struct.Struct:
        scalar = _SCALARS.get(number)
        if scalar is None:
            raise self._damaged(f"{key!r} has the unknown type {number}")
        return scalar

    def _may_keep(self, cost: int) -> bool:
        if self._kept + cost > _MAX_KEPT_BYTES:
            return False
        self._kept += cost
        return True

    def _check_count(self, what: str, count: int, least_bytes: int, most: int) -> None:
        if count > most or count * least_bytes > self._size - self._at:
            raise self._damaged(f"it claims {count} {what}, with {self._size - self._at} bytes left")

    def _damaged(self, reason: str) -> ModelFileError:
        return ModelFileError(self._path, f"is damaged: {reason}. Download it again")

    def _cut_off(self, what: str) -> ModelFileError:
        reason = f"is cut off: it has {self._size} bytes, and they end before the end of {what}. Download it again"
        return ModelFileError(self._path, reason)


def _is_power_of_two(number: int) -> bool:
    return number > 0 and not number & (number - 1)


def _looks_like(start: bytes) -> str:
    for magic, description in _LOOKS_LIKE:
        if start.startswith(magic):
            return f"looks like {description}"
    if start[8:9] == b"{" and start[4:8] == b"\0\0\0\0":
        return "looks like a safetensors file: convert it first"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "looks like a web page: the download went to the page about the file, not to the file"
    return f"starts with {start[:8]!r}"
