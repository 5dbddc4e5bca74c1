"""Where everything is in a GGUF file: its metadata as bytes to copy, its tensors as places to read.

Quantizing copies almost all metadata as it stands, so little of it is understood here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamatelemetry.quantization.ggml import TensorType

__all__ = ["DEFAULT_ALIGNMENT", "Entry", "Layout", "Tensor", "padded"]

DEFAULT_ALIGNMENT: Final = 32
"""Where a file does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One key of the metadata.

    Attributes:
        key: Its name.
        start: Where it begins in the file, in bytes.
        end: Where the next thing begins.
        value: What it holds, if that is a number or a text of up to 1 KiB; of an array of numbers the
            first; else None.
    """

    key: str
    start: int
    end: int
    value: bool | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor.

    Attributes:
        name: For example ``blk.0.attn_q.weight``.
        shape: Its sizes, the length of a row first, without ones at the end.
        type: How its numbers are stored.
        start: Where it begins in the file, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    start: int

    @property
    def row(self) -> int:
        """Numbers in one row."""
        return self.shape[0]

    @property
    def rows_per_matrix(self) -> int:
        """Rows that share one importance vector: all of them, or those of one expert."""
        return self.shape[1] if len(self.shape) > 1 else 1

    @property
    def matrices(self) -> int:
        """How many such groups of rows there are."""
        return math.prod(self.shape[2:])

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes."""
        return self.type.size_of(self.elements)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A whole file, without its weights.

    Attributes:
        path: The file.
        size_bytes: Its size.
        alignment: Bytes of which the tensors' places are multiples.
        entries: Its metadata, in the file's order.
        tensors: Its tensors, in the file's order.
    """

    path: Path
    size_bytes: int
    alignment: int
    entries: tuple[Entry, ...]
    tensors: tuple[Tensor, ...]

    def value(self, key: str) -> bool | float | str | None:
        """What a key holds; None if it is not there or too large to be kept."""
        return next((entry.value for entry in self.entries if entry.key == key), None)

    def whole(self, key: str) -> int | None:
        """A whole number that a key holds, or an array's first."""
        value = self.value(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def padded(size: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // alignment) * alignment
