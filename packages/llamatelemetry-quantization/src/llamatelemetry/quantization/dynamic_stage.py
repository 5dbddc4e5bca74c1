"""The stage ``dynamic`` of pipelines: the best types for a model under a budget."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamatelemetry.artifacts.lineage import lineage_of
from llamatelemetry.pipeline import Port, StageContext
from llamatelemetry.quantization.dynamic.budget import Budget
from llamatelemetry.quantization.dynamic.choosing import (
    DEFAULT_CONTEXT,
    DEFAULT_WINDOWS,
    DynamicProgress,
    quantize_dynamic,
)
from llamatelemetry.quantization.dynamic.groups import DEFAULT_BANDS, DEFAULT_TYPES
from llamatelemetry.quantization.dynamic_report import dynamic_facts
from llamatelemetry.quantization.evaluation.libllama import library_version
from llamatelemetry.quantization.evaluation.logits import checked_context
from llamatelemetry.quantization.evaluation.shared_logits import SharedLogits
from llamatelemetry.quantization.ggml import kernel_version
from llamatelemetry.quantization.imatrix import read_importance

__all__ = ["DynamicStage"]


class DynamicStage:
    """Makes a GGUF model smaller with the types that hurt it least, and reports why.

    One budget has to be given. The file names the run that made it, the span, and the model it was made of.

    Args:
        like: The file type whose size is the most, for example ``Q4_K_M``.
        bits_per_weight: Most bits of the file for each number of the model.
        size_bytes: Most bytes of the file.
        max_divergence: Most mean divergence from the model it is made of, in nats a token.
        types: Tensor types that may be chosen.
        bands: Into how many parts the blocks are cut.
        context: Tokens in a window.
        windows: Windows to measure at most.
        cache: A JSON file that keeps what was measured, for a run that is stopped. It does not change the outcome.
        threads: CPU threads, all there are where None. They do not change the outcome.

    Raises:
        InvalidValueError: An argument cannot be used.
    """

    name = "dynamic"
    version = "1"
    inputs: tuple[Port, ...] = (
        Port(name="model", kind="gguf", help="A model of F16, BF16 or F32."),
        Port(name="imatrix", kind="imatrix", help="An importance matrix of it.", optional=True),
        Port(name="text", kind="dataset", help="A text to measure on; one ships with this.", optional=True),
    )
    outputs: tuple[Port, ...] = (
        Port(name="model", kind="gguf", help="The smaller model."),
        Port(name="report", kind="report", help="JSON: what each group of tensors got, and what it costs."),
    )

    def __init__(
        self,
        *,
        like: str | None = None,
        bits_per_weight: float | None = None,
        size_bytes: int | None = None,
        max_divergence: float | None = None,
        types: Sequence[str] = DEFAULT_TYPES,
        bands: int = DEFAULT_BANDS,
        context: int = DEFAULT_CONTEXT,
        windows: int = DEFAULT_WINDOWS,
        cache: str | None = None,
        threads: int | None = None,
    ) -> None:
        self._budget = Budget(
            size_bytes=size_bytes, bits_per_weight=bits_per_weight, like=like, max_divergence=max_divergence
        )
        self._cache, self._threads = cache, threads
        self.parameters: Mapping[str, Any] = {
            "budget": self._budget.parameters(),
            "types": list(types),
            "bands": bands,
            "context": checked_context(context),
            "windows": windows,
        }

    @property
    def tools(self) -> Mapping[str, str]:
        """The kernels, which decide every byte, and the llama.cpp that the choice is measured with."""
        return {**kernel_version(), **library_version()}

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Tries, chooses and quantizes; trials are its progress and its steps."""
        model, told = context.inputs["model"], self.parameters

        def tell(progress: DynamicProgress) -> None:
            context.step(progress.done, divergence=progress.divergence)
            context.progress(progress.done, progress.total, "trials")

        importance = read_importance(context.path("imatrix")) if "imatrix" in context.inputs else None
        made = quantize_dynamic(
            model.path,
            context.folder / "model-dynamic.gguf",
            budget=self._budget,
            types=told["types"],
            bands=told["bands"],
            text=context.path("text") if "text" in context.inputs else None,
            context=told["context"],
            windows=told["windows"],
            # Without the name of a folder of this machine, which the file would carry.
            imatrix=None if importance is None else replace(importance, path=Path(importance.path.name)),
            threads=self._threads,
            cache=self._cache,
            shared=SharedLogits(context.shared, digests={model.path: model.manifest.content_digest}),
            metadata=lineage_of(context.trace.origin(), model.manifest.digest).metadata(),
            on_progress=tell,
        )
        report = context.folder / "dynamic.json"
        # How many trials were known before says nothing of the model.
        facts = {key: value for key, value in dynamic_facts(made).items() if key != "trials"}
        report.write_text(json.dumps({"made_of": model.manifest.digest, **facts}, indent=2) + "\n")
        return {"model": made.model.path, "report": report}
