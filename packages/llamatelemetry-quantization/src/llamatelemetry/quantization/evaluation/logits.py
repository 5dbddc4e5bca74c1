"""Where logits come from: the contract that measuring needs of a model, and llama.cpp as what keeps it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.evaluation.llama_process import LlamaProcess

__all__ = ["DEFAULT_CONTEXT", "LlamaLogits", "Logits", "LogitsSource"]

DEFAULT_CONTEXT: Final = 512
"""Tokens of a window, as llama-perplexity has them."""

_LEAST_CONTEXT: Final = 8
_MOST_CONTEXT: Final = 1 << 20
_MOST_THREADS: Final = 256

Logits = npt.NDArray[np.float32]


class LogitsSource(Protocol):
    """A model that says how likely every token is. One thread uses it."""

    @property
    def vocabulary(self) -> int:
        """Tokens that there are: numbers in a row of logits."""
        ...

    @property
    def begins_with(self) -> int | None:
        """The token that every text begins with; None where there is none."""
        ...

    @property
    def context(self) -> int:
        """Tokens that a text may have."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text."""
        ...

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Logits]:
        """Runs the model on a text from an empty cache; it may compute before the first block is asked for.

        Args:
            tokens: The text, of at most ``context`` tokens.
            first: The first position to give logits of.

        Returns:
            Blocks of rows of ``vocabulary`` numbers, together ``len(tokens) - first`` rows. The logits of a
            position are of the token after it. All blocks are taken before anything else is asked.
        """
        ...


class LlamaLogits(AbstractContextManager["LlamaLogits"]):
    """A GGUF model in real llama.cpp, which runs in a child process until it is closed.

    Args:
        path: The model.
        context: Tokens that a text may have; fewer where the model was trained for fewer.
        threads: CPU threads to compute with, all there are where None.
        library: A libllama of llama.cpp; where None, that of ``LLAMATELEMETRY_LIBLLAMA`` or of a package.

    Raises:
        InvalidValueError: ``context`` or ``threads`` cannot be used.
        ModelFileError: There is no such file, or llama.cpp cannot load it.
        BackendStartError: llama.cpp crashed.
        MissingDependencyError: No libllama is installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        context: int = DEFAULT_CONTEXT,
        threads: int | None = None,
        library: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path: Path = Path(path)
        self._process = LlamaProcess(
            self.path, context=checked_context(context), threads=thread_count(threads), library=library
        )
        facts = self._process.facts
        self.vocabulary: int = facts["vocabulary"]
        self.begins_with: int | None = facts["begins_with"]
        self.context: int = facts["context"]

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, as llama.cpp sees them: what looks like a special token in it is text."""
        self._process.ask(text=text)
        tokens: list[int] = self._process.answer()["tokens"]
        return tokens

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Logits]:
        """As :meth:`LogitsSource.logits`; llama.cpp computes from now on, whether blocks are taken or not.

        Raises:
            BackendError: llama.cpp could not, or crashed; the iterator raises it too.
        """
        self._process.ask(tokens=list(tokens), first=first)
        return self._blocks()

    def _blocks(self) -> Iterator[Logits]:
        while rows := self._process.answer()["rows"]:
            block = np.empty((rows, self.vocabulary), np.float32)
            self._process.read_into(block.data.cast("B"))
            yield block

    def close(self) -> None:
        """Ends the child process. Idempotent."""
        self._process.close()

    def __exit__(self, *_error: object) -> None:
        self.close()


def checked_context(context: int) -> int:
    """A length of windows that can be used.

    Raises:
        InvalidValueError: It is none.
    """
    if not _LEAST_CONTEXT <= context <= _MOST_CONTEXT:
        raise InvalidValueError("context", context, f"give {_LEAST_CONTEXT} to {_MOST_CONTEXT} tokens")
    return context


def thread_count(threads: int | None) -> int:
    """How many threads to compute with: the given number, or as many as there are CPUs.

    Raises:
        InvalidValueError: It is none.
    """
    if threads is None:
        return min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    if not 1 <= threads <= _MOST_THREADS:
        raise InvalidValueError("threads", threads, f"give 1 to {_MOST_THREADS}")
    return threads
