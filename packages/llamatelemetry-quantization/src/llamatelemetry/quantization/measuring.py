"""Measures an importance matrix, and writes it as llama.cpp's ``llama-imatrix`` does.

Whoever runs the model hands over what goes into each weight. With torch, that is one hook a layer::

    collector = ImportanceCollector()
    layer.register_forward_pre_hook(lambda _, inputs: collector.add("blk.0.attn_q.weight", inputs[0].float().cpu()))
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.quantization.new_file import check_place

__all__ = ["ImportanceCollector"]

_CHUNK: Final = 512
"""Tokens in a piece of text, where nobody says."""


class ImportanceCollector:
    """Adds up the squares of what goes into each weight, column by column. Threads may share one."""

    def __init__(self) -> None:
        # Of each weight a row of sums and a count, or as many as it has experts.
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._counts: dict[str, npt.NDArray[np.int64]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, activations: Any) -> None:
        """Takes what goes into one weight.

        Args:
            name: The weight's name in GGUF files, for example ``blk.0.attn_q.weight``.
            activations: Numbers whose last dimension is a row of the weight; the others are tokens.

        Raises:
            InvalidValueError: They are not finite, or have another length than those before.
        """
        rows = np.asarray(activations, np.float64)
        rows = rows.reshape(-1, rows.shape[-1]) if rows.ndim else rows.reshape(1, 1)
        if not np.isfinite(rows).all():
            raise InvalidValueError(f"activations[{name!r}]", "not finite", "look for an overflow in the model")
        self.add_sums(name, np.einsum("ij,ij->j", rows, rows).reshape(1, -1), [len(rows)])

    def add_sums(self, name: str, sums: npt.NDArray[np.float64], counts: Sequence[int]) -> None:
        """Takes sums of squares that somebody else added up.

        Args:
            name: The weight's name in GGUF files.
            sums: A row for each expert of the weight, one where it has none; a number for each column.
            counts: Tokens that went into each.

        Raises:
            InvalidValueError: They are not finite, or have another shape than those before.
        """
        if not np.isfinite(sums).all():
            raise InvalidValueError(f"activations[{name!r}]", "not finite", "look for an overflow in the model")
        tokens = np.asarray(counts, np.int64)
        with self._lock:
            known = self._sums.get(name)
            if known is not None and known.shape != sums.shape:
                raise InvalidValueError(f"activations[{name!r}]", sums.size, f"give {known.size} numbers a token")
            self._sums[name] = sums if known is None else known + sums
            self._counts[name] = tokens if known is None else self._counts[name] + tokens

    def write(self, path: str | os.PathLike[str], *, dataset: str, chunk_size: int = _CHUNK) -> Path:
        """Writes the importance matrix; the file is there whole or not at all.

        Args:
            path: The file to write, in GGUF.
            dataset: Name of the text that it was measured on.
            chunk_size: Tokens in a piece of it.

        Raises:
            InvalidValueError: Nothing was measured.
            ModelFileError: The file cannot be written.
        """
        import gguf

        path = Path(path)
        if not self._sums:
            raise InvalidValueError(
                "importance", {}, "run the model on a text first, with add() called for each weight"
            )
        check_place(path)
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        with self._lock:
            sums, counts = dict(self._sums), dict(self._counts)
        most = max(int(each.max()) for each in counts.values())
        try:
            writer = gguf.GGUFWriter(temporary, "")
            writer.add_type("imatrix")
            writer.add_array("imatrix.datasets", [dataset])
            writer.add_uint32("imatrix.chunk_count", max(1, most // chunk_size))
            writer.add_uint32("imatrix.chunk_size", chunk_size)
            for name in sorted(sums):
                writer.add_tensor(f"{name}.in_sum2", sums[name].astype(np.float32))
                writer.add_tensor(f"{name}.counts", counts[name].astype(np.float32).reshape(-1, 1))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            temporary.replace(path)
        except (OSError, ValueError) as error:
            raise ModelFileError(path, f"cannot be written: {getattr(error, 'strerror', None) or error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return path
