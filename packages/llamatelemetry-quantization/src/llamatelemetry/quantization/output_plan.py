"""What a quantized file will look like, to the byte, before a weight is touched.

All sizes follow from the types, so every tensor's place is known at once: threads can write wherever
they are, and a file that could not be right is refused before the work.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.quantization.file_types import FileType
from llamatelemetry.quantization.gguf_layout import Layout, padded
from llamatelemetry.quantization.imatrix import Importance
from llamatelemetry.quantization.mix import Choice
from llamatelemetry.quantization.mix_rules import Model

__all__ = ["OutputPlan", "Part", "importance_metadata", "model_of", "plan_output"]

_VERSION: Final = 3
_QUANTIZATION_VERSION: Final = 2
"""``GGML_QNT_VERSION`` in ggml.h: of the formats of the quantized types."""

_FILE_TYPE: Final = "general.file_type"
_QUANTIZATION: Final = "general.quantization_version"
_SPLIT: Final = ("split.no", "split.count", "split.tensors.count")
_TEXT: Final = 8
_U32: Final = 4
_MOST_TEXT: Final = 127
"""Bytes of a text that llama-quantize adds; the rest is cut off."""

# Architectures to the number of blocks at which llama.cpp calls a model 70B. Its rules ask for it.
_LARGE: Final = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One tensor's place in the new file.

    Attributes:
        choice: The tensor and its new type.
        start: Where it begins, in bytes.
        size_bytes: Bytes that it takes.
    """

    choice: Choice
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPlan:
    """A new file.

    Attributes:
        pieces: Everything before the tensors: bytes to write, or a range of the old file to copy.
        parts: The tensors, in the order in which they are written.
        size_bytes: Size of the whole file.
    """

    pieces: tuple[bytes | range, ...]
    parts: tuple[Part, ...]
    size_bytes: int


def model_of(layout: Layout) -> Model:
    """What the rules of a mix ask of a model.

    Raises:
        ModelFileError: The file does not say what its architecture is, or is one part of several.
    """
    architecture = layout.value("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelFileError(layout.path, "does not name its architecture, so it is no model that can be quantized")
    if (layout.whole("split.count") or 1) > 1:
        raise ModelFileError(layout.path, "is one part of a split model: merge it first with llama-gguf-split --merge")
    blocks = layout.whole(f"{architecture}.block_count") or 0
    heads = layout.whole(f"{architecture}.attention.head_count") or 0
    kv_heads = layout.whole(f"{architecture}.attention.head_count_kv")
    if kv_heads is None:
        kv_heads = heads
    large = blocks == _LARGE.get(architecture) and (architecture != "llama" or heads != kv_heads)
    return Model(
        architecture=architecture,
        blocks=blocks,
        heads_per_kv=heads // kv_heads if kv_heads > 0 else 0,
        experts=layout.whole(f"{architecture}.expert_count") or 0,
        large=large,
    )


def plan_output(
    layout: Layout,
    choices: Sequence[Choice],
    *,
    file_type: FileType,
    metadata: Mapping[str, str | int],
) -> OutputPlan:
    """Lays out a new file.

    Args:
        layout: The old file.
        choices: What becomes of each tensor, in the order in which they are written.
        file_type: The mix.
        metadata: Further keys, after those of the quantization.

    Raises:
        InvalidValueError: A key of ``metadata`` is one that the file's reading depends on, or a number
            has more than 32 bits.
    """
    added: dict[str, str | int] = {_QUANTIZATION: _QUANTIZATION_VERSION, _FILE_TYPE: file_type.number}
    for key, value in metadata.items():
        if key in added or key in _SPLIT or key in {"general.alignment", "general.architecture"}:
            raise InvalidValueError("metadata", key, "choose another key: this one says how the file is read")
        if not isinstance(value, str) and not 0 <= value < 2**32:
            raise InvalidValueError(f"metadata[{key!r}]", value, "give a text, or a number from 0 to 4294967295")
        added.setdefault(key, value)
    gone = {*added, *_SPLIT}
    kept = [range(entry.start, entry.end) for entry in layout.entries if entry.key not in gone]
    new = b"".join(_entry(key, value) for key, value in added.items())
    head = struct.pack("<4sIQQ", b"GGUF", _VERSION, len(choices), len(kept) + len(added))
    described, size = _describe(choices, layout.alignment)
    before = len(head) + sum(map(len, kept)) + len(new) + len(described)
    base = padded(before, layout.alignment)
    parts = tuple(_placed(choices, base, layout.alignment))
    pieces: tuple[bytes | range, ...] = (head, *_merged(kept), new + described + bytes(base - before))
    return OutputPlan(pieces=pieces, parts=parts, size_bytes=base + size)


def importance_metadata(importance: Importance) -> dict[str, str | int]:
    """What llama-quantize notes of an importance matrix in the file that it made with it."""
    found: dict[str, str | int] = {"quantize.imatrix.file": _cut(str(importance.path))}
    if importance.dataset:
        found["quantize.imatrix.dataset"] = _cut(importance.dataset)
    found["quantize.imatrix.entries_count"] = len(importance.entries)
    if importance.chunks > 0:
        found["quantize.imatrix.chunks_count"] = importance.chunks
    return found


def _cut(text: str) -> str:
    return text.encode()[:_MOST_TEXT].decode(errors="ignore")


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _entry(key: str, value: str | int) -> bytes:
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", _TEXT) + _text(value)
    return _text(key) + struct.pack("<II", _U32, value)


def _merged(ranges: Sequence[range]) -> Iterator[range]:
    """The ranges, with those that follow each other as one."""
    waiting: range | None = None
    for found in ranges:
        if waiting is not None and waiting.stop == found.start:
            waiting = range(waiting.start, found.stop)
            continue
        if waiting is not None:
            yield waiting
        waiting = found
    if waiting is not None:
        yield waiting


def _describe(choices: Sequence[Choice], alignment: int) -> tuple[bytes, int]:
    """What the header says of the tensors, and the bytes that all of them take."""
    described = bytearray()
    offset = 0
    for choice in choices:
        shape = choice.tensor.shape
        described += _text(choice.tensor.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        described += struct.pack("<IQ", choice.type.number, offset)
        offset = padded(offset + choice.type.size_of(choice.tensor.elements), alignment)
    return bytes(described), offset


def _placed(choices: Sequence[Choice], base: int, alignment: int) -> Iterator[Part]:
    start = base
    for choice in choices:
        size = choice.type.size_of(choice.tensor.elements)
        yield Part(choice=choice, start=start, size_bytes=size)
        start = padded(start + size, alignment)
