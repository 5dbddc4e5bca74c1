"""Logits of a model that others are compared with, computed once for all who ask.

All that decides the numbers is in the names of their files: the model's bytes, the library, the length of context
and the tokens. Threads are not, as they decide none of them. Whoever finds all windows there does not run the model,
and so what its tokenizer made of the text is kept too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from llamatelemetry.quantization.evaluation.libllama import find_library
from llamatelemetry.quantization.evaluation.logits import LlamaLogits, Logits
from llamatelemetry.quantization.evaluation.logits_folder import LogitsFolder
from llamatelemetry.quantization.evaluation.texts import Text
from llamatelemetry.quantization.gguf_reading import open_gguf

__all__ = ["SHARED_BYTES", "SharedLogits", "SharedModel", "sha256_of"]

SHARED_BYTES: Final = 4 << 30
"""Bytes that kept logits may take: 5,000 tokens that are scored, with a vocabulary of 200,000."""

_PIECE_BYTES: Final = 1 << 20


class SharedLogits:
    """A folder of logits that several measurements against one model have together.

    A token that is scored takes four bytes for each of the vocabulary. Windows that do not fit in ``most_bytes``, or
    need more than half of what the disk has left, are computed each time, and a warning in the log says so.

    Args:
        folder: Where they are kept; made when there is something to keep. Whoever gives it removes it.
        most_bytes: What they may take; with 0, what is there is read and nothing is kept.
        digests: Digests of models that were hashed before, and stay as they are.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        most_bytes: int = SHARED_BYTES,
        digests: Mapping[Path, str] = MappingProxyType({}),
    ) -> None:
        self._folder = Path(folder)
        self._most_bytes = most_bytes
        self._digests = dict(digests)

    @contextmanager
    def source(
        self,
        model: Path,
        *,
        text: Text,
        context: int,
        threads: int,
        library: str | os.PathLike[str] | None = None,
    ) -> Iterator[SharedModel]:
        """A model whose logits are kept. It runs in llama.cpp, in a child process until the block ends, if it has to.

        Args:
            model: The GGUF file.
            text: What it is to be asked of.
            context: Tokens that a text may have.
            threads: CPU threads, if it runs.
            library: A libllama, where not the one that is found.

        Raises:
            ModelFileError: It cannot be read, or llama.cpp cannot load it.
            BackendError: llama.cpp crashed.
            MissingDependencyError: No libllama is installed.
        """
        found = find_library(library)
        built = found.stat()
        same = {
            "model": self._digests.get(model) or sha256_of(model),
            "library": [str(found), built.st_size, built.st_mtime_ns],
            "context": context,
        }
        opened = SharedModel(
            LogitsFolder(self._folder, self._most_bytes),
            same,
            text,
            lambda: LlamaLogits(model, context=context, threads=threads, library=library),
        )
        try:
            yield opened
            opened.note()
        finally:
            opened.close()


class SharedModel:
    """A source of logits that computes what nobody computed before.

    Args:
        kept: Where they are kept.
        same: What decides them, but for the tokens.
        text: The text whose tokens are kept.
        start: Starts the model.

    Attributes:
        known: Whether all was kept when it was opened, so that it need not run.
    """

    def __init__(
        self, kept: LogitsFolder, same: Mapping[str, Any], text: Text, start: Callable[[], LlamaLogits]
    ) -> None:
        self._kept = kept
        self._same = same
        self._text = text
        self._start = start
        self._running: LlamaLogits | None = None
        self._path = kept.path({**same, "text": text.sha256}, ".json")
        self.vocabulary: int
        self.begins_with: int | None
        self.context: int
        self.known: bool = False
        self._tokens: list[int] | None = None
        match kept.facts(self._path):
            case {
                "vocabulary": int() as vocabulary,
                "begins_with": int() | None as begins_with,
                "context": int() as length,
                "tokens": list() as tokens,
            }:
                self.vocabulary, self.begins_with, self.context = vocabulary, begins_with, length
                self._tokens = tokens
                self.known = True
            case _:
                live = self._live()
                self.vocabulary, self.begins_with, self.context = live.vocabulary, live.begins_with, live.context

    def tokenize(self, text: str) -> list[int]:
        """As :meth:`~llamatelemetry.quantization.LlamaLogits.tokenize`."""
        if text != self._text.content:
            return self._live().tokenize(text)
        if self._tokens is None:
            self._tokens = self._live().tokenize(text)
        return self._tokens

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Logits]:
        """As :meth:`~llamatelemetry.quantization.LlamaLogits.logits`, and read where they were computed before."""
        path = self._kept.path({**self._same, "tokens": list(tokens), "first": first}, ".f32")
        rows = len(tokens) - first
        known = self._kept.blocks(path, rows, self.vocabulary)
        if known is not None:
            return known
        # It computes from here on, also while nobody takes a block.
        computed = self._live().logits(tokens, first)
        return self._kept.keep(computed, path, 4 * rows * self.vocabulary)

    def note(self) -> None:
        """Says to those who come later that all that was asked for is kept, if it is."""
        if self._running is not None and self._tokens is not None and self._kept.complete:
            facts = {"vocabulary": self.vocabulary, "begins_with": self.begins_with, "context": self.context}
            self._kept.note(self._path, {**facts, "tokens": self._tokens})

    def close(self) -> None:
        """Ends the model, if it runs. Idempotent."""
        if self._running is not None:
            self._running.close()

    def _live(self) -> LlamaLogits:
        if self._running is None:
            self._running = self._start()
        return self._running


def sha256_of(model: Path) -> str:
    """SHA-256 of a model's file.

    Raises:
        ModelFileError: It cannot be read.
    """
    digest = hashlib.sha256()
    with open_gguf(model) as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
