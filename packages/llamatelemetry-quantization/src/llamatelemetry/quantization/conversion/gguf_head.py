"""Everything of a GGUF file before its weights, as bytes.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3, little endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamatelemetry.quantization.ggml import TensorType
from llamatelemetry.quantization.gguf_layout import DEFAULT_ALIGNMENT, padded

__all__ = ["Described", "Head", "Value", "build_head"]

Value = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[bytes]
"""What a key can hold: whole numbers are stored with 32 bits and no sign, in lists with one."""

_VERSION: Final = 3
_U32: Final = 4
_I32: Final = 5
_F32: Final = 6
_BOOL: Final = 7
_TEXT: Final = 8
_ARRAY: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A tensor, as the header describes it.

    Attributes:
        name: Its name.
        shape: Its sizes, the length of a row first.
        type: How its numbers are stored.
        size_bytes: Bytes that it takes.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The beginning of a file.

    Attributes:
        data: Its bytes, up to the first tensor.
        starts: Where each tensor begins in the file, in bytes.
        size_bytes: Size of the whole file.
    """

    data: bytes
    starts: tuple[int, ...]
    size_bytes: int


def build_head(metadata: Mapping[str, Value], tensors: Sequence[Described]) -> Head:
    """Lays out a file.

    Args:
        metadata: Its keys, in order.
        tensors: Its tensors, in the order of their places.
    """
    data = bytearray(struct.pack("<4sIQQ", b"GGUF", _VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        data += _text(key.encode())
        data += _single(value) if isinstance(value, bool | int | float | str) else _array(value)
    offset = 0
    offsets = []
    for tensor in tensors:
        data += _text(tensor.name.encode())
        data += struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        data += struct.pack("<IQ", tensor.type.number, offset)
        offsets.append(offset)
        offset = padded(offset + tensor.size_bytes, DEFAULT_ALIGNMENT)
    base = padded(len(data), DEFAULT_ALIGNMENT)
    data += bytes(base - len(data))
    return Head(data=bytes(data), starts=tuple(base + each for each in offsets), size_bytes=base + offset)


def _text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _single(value: float | str) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _U32, value)
        case float():
            return struct.pack("<If", _F32, value)
        case str():
            return struct.pack("<I", _TEXT) + _text(value.encode())


def _array(values: Sequence[int] | Sequence[float] | Sequence[bytes]) -> bytes:
    first = values[0] if values else 0
    if isinstance(first, bytes):
        texts = b"".join(_text(each) for each in values if isinstance(each, bytes))
        return struct.pack("<IIQ", _ARRAY, _TEXT, len(values)) + texts
    kind, code = (_F32, "f") if isinstance(first, float) else (_I32, "i")
    return struct.pack(f"<IIQ{len(values)}{code}", _ARRAY, kind, len(values), *values)
