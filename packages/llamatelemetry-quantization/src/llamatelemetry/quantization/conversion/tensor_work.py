"""The work of converting, in pieces that threads take one by one.

A piece is some rows of one tensor, read from the checkpoint, changed and written where it belongs. So
a thread needs room for a few rows, however large the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.conversion.tensor_plan import PlannedTensor
from llamatelemetry.quantization.ggml import Ggml

__all__ = ["Piece", "Worker", "pieces_of"]

_ELEMENTS: Final = 2**18
"""Numbers in one piece, unless a row has more: a megabyte as float32."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some rows of one tensor.

    Attributes:
        tensor: The tensor.
        start: Where the tensor begins in the new file, in bytes.
        first: The first of the rows, in the new order.
        rows: How many.
        row: Numbers in one.
    """

    tensor: PlannedTensor
    start: int
    first: int
    rows: int
    row: int

    @property
    def elements(self) -> int:
        """Numbers in all of them."""
        return self.rows * self.row

    @property
    def source_bytes(self) -> int:
        """Bytes of the checkpoint that they are made from."""
        return self.elements * self.tensor.source_width


def pieces_of(tensor: PlannedTensor, start: int) -> Iterator[Piece]:
    """Cuts a tensor; one that is rotated so that a piece has pairs of rows of one head."""
    row, rows = (1, tensor.elements) if len(tensor.shape) == 1 else (tensor.shape[0], tensor.shape[1])
    run = tensor.rotated_rows or rows
    step = max(1, _ELEMENTS // row)
    if tensor.rotated_rows:
        step = max(2, step // 2 * 2)
    for begin in range(0, rows, run):
        for first in range(begin, begin + run, step):
            yield Piece(tensor=tensor, start=start, first=first, rows=min(step, begin + run - first), row=row)


class Worker:
    """Does pieces, in one thread.

    Args:
        ggml: The kernels.
        files: The open files of the checkpoint.
        target: Descriptor of the new file.
    """

    def __init__(self, ggml: Ggml, files: Mapping[Path, FileIO], target: int) -> None:
        self._ggml = ggml
        self._files = files
        self._target = target

    def do(self, piece: Piece) -> None:
        """Makes a piece and writes it.

        Raises:
            ModelFileError: The checkpoint was cut meanwhile, or has numbers that are not finite in the new type.
        """
        tensor = piece.tensor
        done = self._converted(piece, self._read(piece))
        if not self._ggml.validate(tensor.type, done.ctypes.data, done.size):
            raise ModelFileError(
                tensor.source.path,
                f"holds numbers in {tensor.source.name!r} that are not finite, or too large for {tensor.type.name}: "
                "take BF16 if they are",
            )
        self._write(done, piece.start + tensor.type.size_of(piece.first * piece.row))

    def _read(self, piece: Piece) -> Bytes:
        half = piece.tensor.rotated_rows // 2
        if not half:
            return self._rows(piece, piece.first, piece.rows)
        head, place = divmod(piece.first, 2 * half)
        pairs = piece.rows // 2
        first = head * 2 * half + place // 2
        mixed = np.empty((pairs, 2, piece.row * piece.tensor.source_width), np.uint8)
        for side in (0, 1):
            mixed[:, side] = self._rows(piece, first + side * half, pairs).reshape(pairs, -1)
        return mixed.reshape(-1)

    def _rows(self, piece: Piece, first: int, rows: int) -> Bytes:
        source = piece.tensor.source
        row_bytes = piece.row * piece.tensor.source_width
        raw = np.empty(rows * row_bytes, np.uint8)
        descriptor, at, done = self._files[source.path].fileno(), source.start + first * row_bytes, 0
        while done < raw.size:
            got = os.preadv(descriptor, [raw[done:].data], at + done)
            if not got:
                raise ModelFileError(source.path, f"ended within {source.name!r} while it was read: something cut it")
            done += got
        return raw

    def _converted(self, piece: Piece, raw: Bytes) -> Bytes:
        tensor = piece.tensor
        if tensor.source.dtype == tensor.type.name and not tensor.shift:
            return raw
        floats = self._floats(piece, raw)
        if tensor.shift:
            floats += np.float32(tensor.shift)
            if tensor.source.dtype == "F16":
                # As llama.cpp's converter, which adds before it widens F16.
                floats = floats.astype(np.float16).astype(np.float32)
        if tensor.type.name == "F32":
            return floats.view(np.uint8)
        done = np.empty(tensor.type.size_of(piece.elements), np.uint8)
        self._ggml.quantize(
            tensor.type, floats.ctypes.data, done.ctypes.data, rows=piece.rows, row=piece.row, importance=None
        )
        return done

    def _floats(self, piece: Piece, raw: Bytes) -> npt.NDArray[np.float32]:
        dtype = piece.tensor.source.dtype
        if dtype == "F32":
            return raw.view(np.float32)
        floats = np.empty(piece.elements, np.float32)
        self._ggml.widen(self._ggml.types[dtype], raw.ctypes.data, floats.ctypes.data, piece.elements)
        return floats

    def _write(self, data: npt.NDArray[Any], at: int) -> None:
        done = 0
        while done < data.size:
            done += os.pwrite(self._target, data[done:].data, at + done)
