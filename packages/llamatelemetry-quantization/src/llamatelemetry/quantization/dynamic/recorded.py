"""A parent's logits, computed once and kept in a file, for the many models that are compared with it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import numpy as np

from llamatelemetry.quantization.evaluation.logits import Logits, LogitsSource

__all__ = ["RecordedLogits"]

_ROWS: Final = 64


class RecordedLogits:
    """A source of logits that asks another one the first time, and a file without a name after that.

    Args:
        source: Whom to ask; not needed for what was asked before.
        folder: Where the file is, which takes four bytes for each token and each of the vocabulary.
    """

    def __init__(self, source: LogitsSource, folder: Path) -> None:
        self._source = source
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  It lives as long as this does.
        self._places: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}
        self.vocabulary: int = source.vocabulary
        self.begins_with: int | None = source.begins_with
        self.context: int = source.context

    def tokenize(self, text: str) -> list[int]:
        """As the source does it."""
        return self._source.tokenize(text)

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Logits]:
        """What the source gave, in blocks of a size of their own."""
        asked = first, tuple(tokens)
        if asked not in self._places:
            start = self._file.seek(0, os.SEEK_END)
            for block in self._source.logits(tokens, first):
                self._file.write(np.ascontiguousarray(block, np.float32).data.cast("B"))
            self._places[asked] = start, self._file.tell()
        return self._blocks(*self._places[asked])

    def _blocks(self, start: int, end: int) -> Iterator[Logits]:
        row = 4 * self.vocabulary
        for at in range(start, end, _ROWS * row):
            self._file.seek(at)
            raw = self._file.read(min(_ROWS * row, end - at))
            yield np.frombuffer(raw, np.float32).reshape(-1, self.vocabulary)

    def close(self) -> None:
        """Gives the file's room back. Idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
