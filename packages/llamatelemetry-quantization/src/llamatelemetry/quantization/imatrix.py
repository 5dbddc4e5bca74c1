"""Importance matrices: how much each column of a weight matters, as llama.cpp's ``llama-imatrix`` measured it.

Two formats are read, GGUF and the older ``.dat``, and both are checked against the file's size before
anything is allocated. Formats: ``common/imatrix-loader.cpp`` and ``tools/imatrix`` of llama.cpp.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.ggml import load_ggml
from llamatelemetry.quantization.gguf_layout import Layout, Tensor
from llamatelemetry.quantization.gguf_reading import open_gguf, read_layout

__all__ = ["Importance", "read_importance"]

_SUMS: Final = ".in_sum2"
_COUNTS: Final = ".counts"
_I32: Final = struct.Struct("<i")
_MAX_ENTRIES: Final = 65536
_MAX_NAME_BYTES: Final = 256
_MAX_DATASET_BYTES: Final = 4096

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """An importance matrix.

    Attributes:
        path: The file it was read from.
        entries: Names of weights to a number for each of their columns; those of experts one after another.
        dataset: The text that it was measured on; empty if the file does not say.
        chunks: Pieces of that text.
    """

    path: Path
    entries: Mapping[str, Floats]
    dataset: str
    chunks: int


def read_importance(path: str | os.PathLike[str]) -> Importance:
    """Reads an importance matrix.

    Raises:
        ModelFileError: The file is missing, cut off, damaged, or no importance matrix, or it holds numbers
            that are not finite.
        MissingDependencyError: libggml-python is not installed.
    """
    path = Path(path)
    with open_gguf(path) as file:
        is_gguf = file.read(4) == b"GGUF"
        file.seek(0)
        try:
            # Numbers that are not finite are an error below, and no warning before it.
            with np.errstate(all="ignore"):
                found = _read_gguf(path, file) if is_gguf else _read_dat(path, file)
        except OSError as error:
            raise ModelFileError(path, f"cannot be read: {error.strerror}") from error
    for name, values in found.entries.items():
        if not np.isfinite(values).all():
            raise ModelFileError(path, f"is damaged: the importance of {name!r} is not finite")
    return found


def _read_gguf(path: Path, file: BinaryIO) -> Importance:
    layout = read_layout(path, file, load_ggml().types_by_number)
    tensors = {tensor.name: tensor for tensor in layout.tensors}
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    if not names or not all(f"{name}{_COUNTS}" in tensors for name in names):
        raise ModelFileError(path, "is a GGUF file, but no importance matrix: give what llama-imatrix wrote")
    entries = {}
    for name in sorted(names):
        sums = _floats(path, file, tensors[f"{name}{_SUMS}"])
        counts = np.rint(_floats(path, file, tensors[f"{name}{_COUNTS}"]))
        if not np.isfinite(counts).all():
            raise ModelFileError(path, f"is damaged: the counts of {name!r} are not finite")
        if sums.size % counts.size:
            raise ModelFileError(path, f"is damaged: {name!r} has {sums.size} sums and {counts.size} counts")
        table = sums.reshape(counts.size, -1)
        # An expert that no text reached: all of its columns matter alike.
        seen = counts[:, None] > 0
        means = np.where(seen, table / np.where(seen, counts[:, None], 1), 1)
        entries[name] = np.ascontiguousarray(means.reshape(-1), dtype=np.float32)
    return Importance(
        path=path,
        entries=MappingProxyType(entries),
        dataset=_dataset(file, layout),
        chunks=layout.whole("imatrix.chunk_count") or 0,
    )


def _floats(path: Path, file: BinaryIO, tensor: Tensor) -> Floats:
    if tensor.type.name != "F32":
        raise ModelFileError(path, f"is damaged: {tensor.name!r} is {tensor.type.name}, and has to be F32")
    file.seek(tensor.start)
    return np.frombuffer(file.read(tensor.size_bytes), dtype="<f4").astype(np.float32)


def _dataset(file: BinaryIO, layout: Layout) -> str:
    """The first text of ``imatrix.datasets``; the layout keeps no arrays of texts."""
    entry = next((entry for entry in layout.entries if entry.key == "imatrix.datasets"), None)
    if entry is None:
        return ""
    # The key with its length, the type, the elements' type and their number; then the first with its length.
    file.seek(entry.start + 8 + len(entry.key.encode()) + 4 + 4 + 8)
    piece = file.read(min(entry.end - file.tell(), 8 + _MAX_DATASET_BYTES))
    return piece[8 : 8 + int.from_bytes(piece[:8], "little")].decode(errors="replace")


def _read_dat(path: Path, file: BinaryIO) -> Importance:
    size = os.fstat(file.fileno()).st_size

    def whole() -> int:
        piece = file.read(4)
        if len(piece) < 4:
            raise ModelFileError(path, "is neither an importance matrix nor whole")
        (number,) = _I32.unpack(piece)
        return int(number)

    def take(count: int, most: int, what: str) -> bytes:
        if not 0 < count <= min(most, size - file.tell()):
            raise ModelFileError(path, f"is no importance matrix, or damaged: {what} would have {count} bytes")
        return file.read(count)

    entries: dict[str, Floats] = {}
    count = whole()
    # A name's length, a name, two counts and a number are the least that an entry takes.
    if not 0 < count <= min(_MAX_ENTRIES, size // 17):
        raise ModelFileError(path, f"is no importance matrix, or damaged: it claims {count} entries in {size} bytes")
    for _ in range(count):
        name = take(whole(), _MAX_NAME_BYTES, "a name").split(b"\0")[0].decode(errors="replace")
        calls = whole()
        values = np.frombuffer(take(whole() * 4, size, f"{name!r}"), dtype="<f4").astype(np.float32)
        entries[name] = values / np.float32(calls) if calls > 0 else values
    # What follows is optional.
    chunks, dataset = 0, ""
    if size - file.tell() >= 8:
        chunks = max(whole(), 0)
        length = whole()
        dataset = file.read(min(max(length, 0), _MAX_DATASET_BYTES)).decode(errors="replace")
    return Importance(path=path, entries=MappingProxyType(entries), dataset=dataset, chunks=chunks)
