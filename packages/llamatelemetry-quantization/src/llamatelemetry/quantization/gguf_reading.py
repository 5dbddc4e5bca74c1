"""Reads where everything is in a GGUF file.

The file is not to be trusted: every count and length is checked against the bytes that are there
before anything is allocated or looped over. It is read, never mapped, so that a file which shrinks
meanwhile is an error and not a crash.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian.
"""

from __future__ import annotations

import math
import os
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.ggml import TensorType
from llamatelemetry.quantization.gguf_layout import DEFAULT_ALIGNMENT, Entry, Layout, Tensor, padded
from llamatelemetry.untrusted.files import open_regular

__all__ = ["open_gguf", "read_layout"]

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)

# Far beyond what any model has, and small enough to bound what a hostile file can cost.
_MAX_KEYS: Final = 8192
_MAX_TENSORS: Final = 65536
_MAX_KEY_BYTES: Final = 256
_MAX_NAME_BYTES: Final = 63
"""``GGML_MAX_NAME`` in ggml.h, less the zero."""
_MAX_DIMENSIONS: Final = 4
_MAX_ALIGNMENT: Final = 2**20
_MAX_TEXTS: Final = 2**22
_MAX_TEXT_BYTES: Final = 1024
_MAX_ELEMENTS: Final = 2**48

_STRING: Final = 8
_ARRAY: Final = 9
_CODES: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SCALARS: Final = {number: struct.Struct("<" + code) for number, code in _CODES.items()}
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


@contextmanager
def open_gguf(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file for reading.

    Raises:
        ModelFileError: It is missing, not a regular file or not readable.
    """
    with open_regular(path, "give a .gguf file") as raw, BufferedReader(raw) as file:
        yield file


def read_layout(path: Path, file: BinaryIO, types: Mapping[int, TensorType]) -> Layout:
    """Reads and checks everything before the weights, and that the file is long enough for them.

    Args:
        path: Its name, for messages.
        file: The open file.
        types: The tensor types there are, by number.

    Raises:
        ModelFileError: It is cut off, damaged, or not GGUF.
    """
    try:
        return _Reader(path, file, types).layout()
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from error


class _Reader:
    """A position in the file. Every method checks that what it reads is there."""

    def __init__(self, path: Path, file: BinaryIO, types: Mapping[int, TensorType]) -> None:
        self._path = path
        self._file = file
        self._types = types
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0
        self._texts = 0

    def layout(self) -> Layout:
        if self._take(min(4, self._size), "its magic") != _MAGIC:
            raise ModelFileError(self._path, "is not a GGUF file")
        if (version := self._number(_U32)) not in _VERSIONS:
            raise ModelFileError(self._path, f"is GGUF of version {version}; versions 2 and 3 can be read")
        tensor_count = self._count("tensors", self._number(_U64), least_bytes=24, most=_MAX_TENSORS)
        key_count = self._count("keys", self._number(_U64), least_bytes=13, most=_MAX_KEYS)
        entries = tuple(self._entry() for _ in range(key_count))
        self._check_unique("key", [entry.key for entry in entries])
        alignment = self._alignment(entries)
        described = [self._tensor() for _ in range(tensor_count)]
        self._check_unique("tensor", [name for name, *_ in described])
        tensors = tuple(self._placed(described, alignment))
        return Layout(path=self._path, size_bytes=self._size, alignment=alignment, entries=entries, tensors=tensors)

    def _entry(self) -> Entry:
        start = self._at
        key = self._name("a key", _MAX_KEY_BYTES)
        kind = self._number(_U32)
        value = self._array(key) if kind == _ARRAY else self._single(kind, key)
        return Entry(key=key, start=start, end=self._at, value=value)

    def _single(self, kind: int, key: str) -> bool | float | str | None:
        if kind == _STRING:
            return self._text(key)
        value: bool | float = self._number(self._scalar(kind, key))
        return value

    def _text(self, key: str) -> str | None:
        length = self._number(_U64)
        if length > _MAX_TEXT_BYTES:
            self._skip(length, key)
            return None
        return self._take(length, repr(key)).decode(errors="replace")

    def _array(self, key: str) -> bool | float | None:
        kind, count = self._number(_U32), self._number(_U64)
        if kind == _STRING:
            self._count(f"texts in {key!r}", count, least_bytes=8, most=_MAX_TEXTS - self._texts)
            self._texts += count
            for _ in range(count):
                self._skip(self._number(_U64), key)
            return None
        scalar = self._scalar(kind, key)
        self._count(f"numbers in {key!r}", count, least_bytes=scalar.size, most=self._size)
        if not count:
            return None
        first: bool | float = self._number(scalar)
        self._skip((count - 1) * scalar.size, key)
        return first

    def _alignment(self, entries: tuple[Entry, ...]) -> int:
        value = next((entry.value for entry in entries if entry.key == "general.alignment"), DEFAULT_ALIGNMENT)
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not 0 < value <= _MAX_ALIGNMENT
            or value & (value - 1)
        ):
            raise self._damaged(f"an alignment of {value!r} is not a power of two")
        return value

    def _tensor(self) -> tuple[str, tuple[int, ...], TensorType, int]:
        name = self._name("a tensor", _MAX_NAME_BYTES)
        dimensions = self._number(_U32)
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            raise self._damaged(f"the tensor {name!r} has {dimensions} dimensions")
        shape = [self._number(_U64) for _ in range(dimensions)]
        while len(shape) > 1 and shape[-1] == 1:
            del shape[-1]
        if 0 in shape or math.prod(shape) > _MAX_ELEMENTS:
            raise self._damaged(f"the tensor {name!r} has the sizes {shape}")
        kind = self._types.get(number := self._number(_U32))
        if kind is None:
            raise ModelFileError(self._path, f"its tensor {name!r} has the type {number}, which is not known here")
        if shape[0] % kind.block:
            raise self._damaged(f"rows of {name!r} have {shape[0]} numbers, no multiple of {kind.block} as {kind.name}")
        return name, tuple(shape), kind, self._number(_U64)

    def _placed(
        self, described: list[tuple[str, tuple[int, ...], TensorType, int]], alignment: int
    ) -> Iterator[Tensor]:
        """The tensors with their places, which follow each other without gaps as llama.cpp wants it."""
        start = base = padded(self._at, alignment)
        for name, shape, kind, offset in described:
            if base + offset != start:
                raise self._damaged(f"the tensor {name!r} is at {offset}, and {start - base} was expected")
            tensor = Tensor(name=name, shape=shape, type=kind, start=start)
            if start + tensor.size_bytes > self._size:
                raise self._cut_off(f"the tensor {name!r}")
            yield tensor
            start = padded(start + tensor.size_bytes, alignment)

    def _name(self, what: str, most: int) -> str:
        length = self._number(_U64)
        if not 0 < length <= most:
            raise self._damaged(f"the name of {what} has {length} bytes; 1 to {most} are possible")
        try:
            return self._take(length, f"the name of {what}").decode()
        except UnicodeDecodeError as error:
            raise self._damaged(f"the name of {what} is not UTF-8") from error

    def _scalar(self, kind: int, key: str) -> struct.Struct:
        scalar = _SCALARS.get(kind)
        if scalar is None:
            raise self._damaged(f"{key!r} has the type {kind}, which does not exist or cannot be there")
        return scalar

    def _number(self, kind: struct.Struct) -> Any:
        (number,) = kind.unpack(self._take(kind.size, "its header"))
        return number

    def _take(self, count: int, what: str) -> bytes:
        piece = self._file.read(count)
        if len(piece) != count:
            raise self._cut_off(what)
        self._at += count
        return piece

    def _skip(self, count: int, key: str) -> None:
        if count > self._size - self._at:
            raise self._cut_off(repr(key))
        self._at += count
        # Seeking throws the buffer away, which for the texts of a vocabulary is most of the time spent.
        if count > _MAX_TEXT_BYTES:
            self._file.seek(self._at)
        else:
            self._file.read(count)

    def _count(self, what: str, count: int, *, least_bytes: int, most: int) -> int:
        if count > most or count * least_bytes > self._size - self._at:
            raise self._damaged(f"it claims {count} {what}, with {self._size - self._at} bytes left")
        return count

    def _check_unique(self, what: str, names: list[str]) -> None:
        name, times = next(iter(Counter(names).most_common(1)), ("", 0))
        if times > 1:
            raise self._damaged(f"the {what} {name!r} is there {times} times")

    def _damaged(self, reason: str) -> ModelFileError:
        return ModelFileError(self._path, f"is damaged: {reason}. Download or convert it again")

    def _cut_off(self, what: str) -> ModelFileError:
        reason = f"is cut off: it has {self._size} bytes, and they end before the end of {what}. Download it again"
        return ModelFileError(self._path, reason)
