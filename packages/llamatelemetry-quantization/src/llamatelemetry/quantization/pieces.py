"""The work of quantizing, in pieces that threads take one by one.

A piece is some rows of one tensor: few enough that they stay in a CPU's cache on their way, enough
that starting on them costs nothing. Rows do not depend on each other, so neither does the result on
how they were cut or in which order they were done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.ggml import Ggml, TensorType
from llamatelemetry.quantization.output_plan import Part

__all__ = ["MOST_ROW", "Piece", "Worker", "pieces_of"]

_ELEMENTS: Final = 2**17
"""Numbers in one piece, unless a row has more: half a megabyte as float32."""
MOST_ROW: Final = 2**22
"""Numbers in a row that is quantized: far more than models have, and a bound of what a thread needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Rows of one tensor.

    Attributes:
        part: The tensor and its place in the new file.
        matrix: Which of its matrices they are of.
        first: The first number, counted from the tensor's beginning.
        rows: How many rows.
    """

    part: Part
    matrix: int
    first: int
    rows: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return self.rows * self.part.choice.tensor.row

    @property
    def source_bytes(self) -> int:
        """Bytes that it takes in the old file."""
        return self.part.choice.tensor.type.size_of(self.elements)


def pieces_of(part: Part) -> Iterator[Piece]:
    """The pieces of one tensor; none crosses from one matrix to the next."""
    tensor = part.choice.tensor
    most = max(1, _ELEMENTS // tensor.row)
    for matrix in range(tensor.matrices):
        for row in range(0, tensor.rows_per_matrix, most):
            yield Piece(
                part=part,
                matrix=matrix,
                first=(matrix * tensor.rows_per_matrix + row) * tensor.row,
                rows=min(most, tensor.rows_per_matrix - row),
            )


class Worker:
    """What one thread needs to do pieces: room for one on its way, and the two files.

    Args:
        ggml: The kernels.
        source: The old file, open for reading.
        target: The new file, open for writing.
        path: The old file's name, for messages.
        importance: Names of tensors to how much each of their columns matters.
    """

    def __init__(
        self, ggml: Ggml, source: int, target: int, *, path: Path, importance: Mapping[str, npt.NDArray[np.float32]]
    ) -> None:
        self._ggml = ggml
        self._source = source
        self._target = target
        self._path = path
        self._importance = importance
        self._rooms: dict[str, npt.NDArray[np.uint8]] = {}

    def do(self, piece: Piece) -> None:
        """Reads a piece, quantizes it, and writes it to its place.

        Raises:
            ModelFileError: The old file ended, or it holds numbers that are not finite.
            OSError: A file cannot be read or written.
        """
        choice = piece.part.choice
        tensor = choice.tensor
        raw = self._read(piece)
        self._check(tensor.type, raw, tensor.name)
        done = raw if choice.type == tensor.type else self._quantized(piece, raw)
        self._write(done, piece.part.start + choice.type.size_of(piece.first))

    def _read(self, piece: Piece) -> npt.NDArray[np.uint8]:
        tensor = piece.part.choice.tensor
        raw = self._room("raw", piece.source_bytes)
        at, end = tensor.start + tensor.type.size_of(piece.first), 0
        while end < raw.size:
            got = os.preadv(self._source, [raw[end:].data], at + end)
            if not got:
                raise ModelFileError(self._path, f"ended within {tensor.name!r} while it was read: something cut it")
            end += got
        return raw

    def _quantized(self, piece: Piece, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        choice = piece.part.choice
        floats = raw
        if choice.tensor.type.name != "F32":
            floats = self._room("floats", piece.elements * 4)
            self._ggml.widen(choice.tensor.type, raw.ctypes.data, floats.ctypes.data, piece.elements)
        done = self._room("done", choice.type.size_of(piece.elements))
        written = self._ggml.quantize(
            choice.type,
            floats.ctypes.data,
            done.ctypes.data,
            rows=piece.rows,
            row=choice.tensor.row,
            importance=self._importance_of(piece),
        )
        if written != done.size:
            raise ModelFileError(self._path, f"gave {written} bytes of {choice.tensor.name!r}, not {done.size}")
        self._check(choice.type, done, choice.tensor.name)
        return done

    def _importance_of(self, piece: Piece) -> int | None:
        """Address of the numbers of the piece's matrix."""
        values = self._importance.get(piece.part.choice.tensor.name)
        if values is None:
            return None
        address: int = values[piece.matrix * piece.part.choice.tensor.row :].ctypes.data
        return address

    def _check(self, kind: TensorType, data: npt.NDArray[Any], name: str) -> None:
        if not self._ggml.validate(kind, data.ctypes.data, data.size):
            raise ModelFileError(
                self._path, f"holds numbers in {name!r} that are not finite, or become so as {kind.name}"
            )

    def _write(self, data: npt.NDArray[np.uint8], at: int) -> None:
        done = 0
        while done < data.size:
            done += os.pwrite(self._target, data[done:].data, at + done)

    def _room(self, name: str, size: int) -> npt.NDArray[np.uint8]:
        room = self._rooms.get(name)
        if room is None or room.size < size:
            room = self._rooms[name] = np.empty(size, np.uint8)
        return room[:size]
