"""The stage ``imatrix`` of pipelines: how much each column of each weight matters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamatelemetry.pipeline import Port, StageContext
from llamatelemetry.quantization.evaluation.importance import measure_importance
from llamatelemetry.quantization.evaluation.libllama import library_version
from llamatelemetry.quantization.evaluation.logits import DEFAULT_CONTEXT, checked_context

__all__ = ["ImatrixStage"]


class ImatrixStage:
    """Measures an importance matrix in llama.cpp, for a stage ``quantize`` after it.

    Args:
        context: Tokens that the model sees at once.
        windows: Pieces of the text to read at most; all of it where None.
        threads: CPU threads, all there are where None. They do not change the outcome.

    Raises:
        InvalidValueError: An argument cannot be used.
    """

    name = "imatrix"
    version = "1"
    inputs: tuple[Port, ...] = (
        Port(name="model", kind="gguf", help="A model, best of F16 or BF16."),
        Port(name="text", kind="dataset", help="A text; one that ships with this when not given.", optional=True),
    )
    outputs: tuple[Port, ...] = (Port(name="imatrix", kind="imatrix", help="Its importance matrix."),)

    def __init__(
        self, *, context: int = DEFAULT_CONTEXT, windows: int | None = None, threads: int | None = None
    ) -> None:
        self._threads = threads
        self.parameters: Mapping[str, Any] = {"context": checked_context(context), "windows": windows}

    @property
    def tools(self) -> Mapping[str, str]:
        """The llama.cpp that computes."""
        return library_version()

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Measures; windows are its progress."""
        made = context.folder / "imatrix.gguf"
        measure_importance(
            context.path("model"),
            made,
            text=context.path("text") if "text" in context.inputs else None,
            context=self.parameters["context"],
            windows=self.parameters["windows"],
            threads=self._threads,
            on_progress=lambda progress: context.progress(progress.done, progress.total, "windows"),
        )
        return {"imatrix": made}
