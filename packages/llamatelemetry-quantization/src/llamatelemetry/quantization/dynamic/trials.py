"""Tries types out: makes a model with them, and measures in llama.cpp how far it is from the parent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamatelemetry.quantization.dynamic.groups import overrides_for
from llamatelemetry.quantization.dynamic.trial_cache import TrialCache
from llamatelemetry.quantization.evaluation.libllama import library_version
from llamatelemetry.quantization.evaluation.logits import LlamaLogits
from llamatelemetry.quantization.evaluation.quality import pair_scores
from llamatelemetry.quantization.evaluation.shared_logits import SharedLogits, sha256_of
from llamatelemetry.quantization.evaluation.texts import Text, windows_of
from llamatelemetry.quantization.ggml import kernel_version
from llamatelemetry.quantization.gguf_layout import Layout
from llamatelemetry.quantization.imatrix import Importance
from llamatelemetry.quantization.quantizing import quantize

__all__ = ["Trials"]


class Trials:
    """Models that differ from their parent in the types of some tensors, each measured once.

    The parent runs once, beside the first of them, and its logits are kept; models are made one at a time. Nothing
    is run while all that is asked for is known already.

    Args:
        layout: The parent.
        text: What to measure on.
        context: Tokens in a window.
        windows: Windows to measure at most.
        importance: What matters in each weight.
        threads: CPU threads.
        library: A libllama, where not the one that is found.
        cache: What was measured before.
        folder: Where there is room for such a model, and for the logits if they are kept nowhere else.
        shared: Where those of the parent are kept.
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
        shared: SharedLogits | None = None,
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
        self._folder = folder
        digest = sha256_of(layout.path)
        self._shared = shared or SharedLogits(folder / "logits", digests={layout.path: digest})
        self._same: dict[str, Any] = {
            "model": digest,
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
        share = max(1, self._threads // 2)
        with self._shared.source(
            self._layout.path, text=self._text, context=self._context, threads=share, library=self._library
        ) as parent:
            tokens = parent.tokenize(self._text.content)
            windows = windows_of(
                self._text, tokens, context=parent.context, begins_with=parent.begins_with, most=self._windows
            )
            made = self._made(types)
            threads = self._threads if parent.known else share
            with LlamaLogits(made, context=self._context, threads=threads, library=self._library) as source:
                means = [float(pair.divergences.mean()) for pair in pair_scores(source, parent, windows)]
        found = sum(means) / len(means)
        self.ran += 1
        self._cache.put(facts, found)
        return found

    def _made(self, types: Mapping[str, str]) -> Path:
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
        return made


def _importance_digest(importance: Importance) -> str:
    digest = hashlib.sha256()
    for name in sorted(importance.entries):
        digest.update(name.encode() + b"\0" + importance.entries[name].tobytes())
    return digest.hexdigest()
