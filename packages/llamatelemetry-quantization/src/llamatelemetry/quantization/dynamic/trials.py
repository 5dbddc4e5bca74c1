"""Tries types out: makes a model with them, and measures in llama.cpp how far it is from the parent."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llamatelemetry.quantization.dynamic.groups import overrides_for
from llamatelemetry.quantization.dynamic.recorded import RecordedLogits
from llamatelemetry.quantization.dynamic.trial_cache import TrialCache
from llamatelemetry.quantization.evaluation.libllama import library_version
from llamatelemetry.quantization.evaluation.logits import LlamaLogits
from llamatelemetry.quantization.evaluation.quality import pair_scores
from llamatelemetry.quantization.evaluation.texts import Text, Window, windows_of
from llamatelemetry.quantization.ggml import kernel_version
from llamatelemetry.quantization.gguf_layout import Layout
from llamatelemetry.quantization.imatrix import Importance
from llamatelemetry.quantization.quantizing import quantize

__all__ = ["Trials"]


class Trials:
    """Models that differ from their parent in the types of some tensors, each measured once.

    The parent runs once, and its logits wait in a file without a name; models are made in the same folder, one
    at a time. Nothing is run while all that is asked for is known already.

    Args:
        layout: The parent.
        text: What to measure on.
        context: Tokens in a window.
        windows: Windows to measure at most.
        importance: What matters in each weight.
        threads: CPU threads.
        library: A libllama, where not the one that is found.
        cache: What was measured before.
        folder: Where there is room for two such models and the logits.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        text: Text,
        context: int,
        windows: int,
        importance: Importance | None,
        threads: int,
        library: str | os.PathLike[str] | None,
        cache: TrialCache,
        folder: Path,
    ) -> None:
        self.ran: int = 0
        """Models that were made and measured; the others were known."""
        self._layout = layout
        self._text = text
        self._context, self._windows = context, windows
        self._importance = importance
        self._threads = threads
        self._library = library
        self._cache = cache
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=".trials-")))
        self._parent: tuple[RecordedLogits, tuple[Window, ...]] | None = None
        self._same: dict[str, Any] = {
            "model": _sha256(layout.path),
            "text": text.sha256,
            "context": context,
            "windows": windows,
            "importance": None if importance is None else _importance_digest(importance),
            "tools": {**kernel_version(), **(library_version() if library is None else {"library": str(library)})},
        }

    def divergence(self, types: Mapping[str, str]) -> float:
        """Mean divergence from the parent, in nats a token, of the parent with some other types.

        Args:
            types: Names of tensors to their types; all others stay as they are.

        Raises:
            BackendError: llama.cpp crashed, or the model computes what is no number.
            ModelFileError: There is no room for it.
        """
        facts = {**self._same, "types": dict(types)}
        known = self._cache.get(facts)
        if known is not None:
            return known
        parent, windows = self._parent_logits()
        made = self._folder / "model.gguf"
        kept = {tensor.name: tensor.type.name for tensor in self._layout.tensors if tensor.name not in types}
        quantize(
            self._layout.path,
            made,
            file_type="Q8_0",
            imatrix=self._importance,
            threads=self._threads,
            overrides=overrides_for({**types, **kept}),
            allow_requantize=True,
        )
        with LlamaLogits(made, context=self._context, threads=self._threads, library=self._library) as source:
            means = [float(pair.divergences.mean()) for pair in pair_scores(source, parent, windows)]
        found = sum(means) / len(means)
        self.ran += 1
        self._cache.put(facts, found)
        return found

    def _parent_logits(self) -> tuple[RecordedLogits, tuple[Window, ...]]:
        if self._parent is None:
            with LlamaLogits(
                self._layout.path, context=self._context, threads=self._threads, library=self._library
            ) as source:
                tokens = source.tokenize(self._text.content)
                windows = windows_of(
                    self._text, tokens, context=source.context, begins_with=source.begins_with, most=self._windows
                )
                recorded = self._stack.enter_context(RecordedLogits(source, self._folder))
                for window in windows:
                    recorded.logits(window.tokens, window.first)
            self._parent = recorded, windows
        return self._parent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _importance_digest(importance: Importance) -> str:
    digest = hashlib.sha256()
    for name in sorted(importance.entries):
        digest.update(name.encode() + b"\0" + importance.entries[name].tobytes())
    return digest.hexdigest()
