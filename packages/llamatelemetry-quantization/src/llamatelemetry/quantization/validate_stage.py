"""The stage ``validate`` of pipelines: what a quantization lost, measured, and held to limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamatelemetry.pipeline import Port, StageContext
from llamatelemetry.quantization.evaluation.libllama import library_version
from llamatelemetry.quantization.evaluation.logits import DEFAULT_CONTEXT, checked_context
from llamatelemetry.quantization.evaluation.quality import QualityProgress, measure_quality
from llamatelemetry.quantization.evaluation.quality_report import QualityLimits, quality_facts
from llamatelemetry.quantization.evaluation.shared_logits import SHARED_BYTES, SharedLogits

__all__ = ["ValidateStage"]


def _inputs(*, needs_parent: bool) -> tuple[Port, ...]:
    return (
        Port(name="model", kind="gguf", help="The model to measure."),
        Port(
            name="parent", kind="gguf", help="The model it was made of, best of F16 or BF16.", optional=not needs_parent
        ),
        Port(name="text", kind="dataset", help="A text; one that ships with this when not given.", optional=True),
    )


class ValidateStage:
    """Measures a model, beside its parent if that is given, and writes a report. Each window is a step of its span.

    Args:
        max_divergence: Most mean divergence from the parent, in nats a token.
        max_perplexity_ratio: Most perplexity over that of the parent.
        max_perplexity: Most perplexity.
        context: Tokens in a window.
        windows: Windows to measure at most; all of the text where None.
        threads: CPU threads, all there are where None. They do not change the outcome.
        shared_bytes: Most bytes of the parent's logits that are kept for the stages of one run that compare with it
            too, while it goes on; what is beyond is computed each time. They do not change the outcome.

    Raises:
        InvalidValueError: An argument cannot be used.
    """

    name = "validate"
    version = "1"
    inputs: tuple[Port, ...] = _inputs(needs_parent=False)
    outputs: tuple[Port, ...] = (Port(name="report", kind="report", help="JSON: perplexity, divergence, agreement."),)

    def __init__(
        self,
        *,
        max_divergence: float | None = None,
        max_perplexity_ratio: float | None = None,
        max_perplexity: float | None = None,
        context: int = DEFAULT_CONTEXT,
        windows: int | None = None,
        threads: int | None = None,
        shared_bytes: int = SHARED_BYTES,
    ) -> None:
        self._limits = QualityLimits(
            perplexity=max_perplexity, perplexity_ratio=max_perplexity_ratio, divergence=max_divergence
        )
        self._threads = threads
        self._shared_bytes = shared_bytes
        self.inputs = _inputs(needs_parent=self._limits.needs_parent)
        self.parameters: Mapping[str, Any] = {
            "limits": dict(self._limits.given()),
            "context": checked_context(context),
            "windows": windows,
        }

    @property
    def tools(self) -> Mapping[str, str]:
        """The llama.cpp that computes."""
        return library_version()

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Measures; windows are its progress.

        Raises:
            QualityLimitError: A figure is past its limit.
        """

        def tell(progress: QualityProgress) -> None:
            apart = {} if progress.divergence is None else {"divergence": progress.divergence}
            context.step(progress.done, loss=progress.loss, **apart)
            context.progress(progress.done, progress.total, "windows")

        model, parent = context.inputs["model"], context.inputs.get("parent")
        # A pipeline of one model has wired it to both.
        if parent is not None and parent.manifest.content_digest == model.manifest.content_digest:
            parent = None
        self._limits.check_parent(there=parent is not None)
        compared, port = (model, "model") if parent is None else (parent, "parent")
        shared = SharedLogits(
            context.shared,
            # Nothing is kept for nobody.
            most_bytes=self._shared_bytes if port in context.taken_again else 0,
            digests={compared.path: compared.manifest.content_digest},
        )
        measured = measure_quality(
            model.path,
            None if parent is None else parent.path,
            text=context.path("text") if "text" in context.inputs else None,
            context=self.parameters["context"],
            windows=self.parameters["windows"],
            threads=self._threads,
            shared=shared,
            on_progress=tell,
        )
        self._limits.check(measured)
        models = {"model": model.manifest.digest, "parent": None if parent is None else parent.manifest.digest}
        made = context.folder / "quality.json"
        made.write_text(json.dumps({**models, **quality_facts(measured)}, indent=2) + "\n")
        return {"report": made}
