"""The stage ``quantize`` of pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamatelemetry.artifacts.lineage import lineage_of
from llamatelemetry.pipeline import Port, StageContext
from llamatelemetry.quantization.file_types import file_type as named_type
from llamatelemetry.quantization.ggml import kernel_version
from llamatelemetry.quantization.imatrix import Importance, read_importance
from llamatelemetry.quantization.quantizing import quantize

__all__ = ["QuantizeStage"]


class QuantizeStage:
    """Makes a GGUF model smaller. The file names the run that made it, the span, and the model it was made of.

    Args:
        file_type: The mix, for example ``Q4_K_M``.
        overrides: Pairs of a pattern of tensor names and the type they get instead of the mix's.
        allow_requantize: Whether weights may be quantized that were quantized before.
        threads: Threads to compute with, all there are where None. They do not change the outcome.

    Raises:
        InvalidValueError: There is no such file type.
    """

    name = "quantize"
    version = "1"
    inputs: tuple[Port, ...] = (
        Port(name="model", kind="gguf", help="A model, best of F16 or BF16."),
        Port(name="imatrix", kind="imatrix", help="An importance matrix of it.", optional=True),
    )
    outputs: tuple[Port, ...] = (Port(name="model", kind="gguf", help="The smaller model."),)

    def __init__(
        self,
        file_type: str,
        *,
        overrides: Sequence[Sequence[str]] = (),
        allow_requantize: bool = False,
        threads: int | None = None,
    ) -> None:
        self._threads = threads
        self._overrides = [(pattern, name) for pattern, name in overrides]
        self.parameters: Mapping[str, Any] = {
            "file_type": named_type(file_type).name,
            "overrides": [list(pair) for pair in self._overrides],
            "allow_requantize": allow_requantize,
        }

    @property
    def tools(self) -> Mapping[str, str]:
        """The kernels, which decide every byte."""
        return kernel_version()

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Quantizes; bytes of the old model are its progress."""
        model = context.inputs["model"]
        made = quantize(
            model.path,
            context.folder / f"model-{self.parameters['file_type']}.gguf",
            file_type=self.parameters["file_type"],
            imatrix=_importance(context.path("imatrix")) if "imatrix" in context.inputs else None,
            threads=self._threads,
            overrides=self._overrides,
            allow_requantize=self.parameters["allow_requantize"],
            metadata=lineage_of(context.trace.origin(), model.manifest.digest).metadata(),
            on_progress=lambda progress: context.progress(progress.done_bytes, progress.total_bytes, "B"),
        )
        return {"model": made.path}


def _importance(path: Path) -> Importance:
    """The importance matrix, without the name of a folder of this machine, which the file would carry."""
    return replace(read_importance(path), path=Path(path.name))
