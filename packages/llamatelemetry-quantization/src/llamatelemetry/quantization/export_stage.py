"""The stage ``export_gguf`` of pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamatelemetry.artifacts.lineage import lineage_of
from llamatelemetry.errors import InvalidValueError
from llamatelemetry.pipeline import Port, StageContext
from llamatelemetry.quantization.converting import CONVERTED_TYPES, convert
from llamatelemetry.quantization.ggml import kernel_version

__all__ = ["ExportGGUFStage"]


class ExportGGUFStage:
    """Makes a GGUF file of a checkpoint. The file names the run that made it, the span, and the checkpoint.

    Args:
        file_type: ``F32``, ``F16``, ``BF16`` or ``Q8_0``.
        model_name: What the file calls the model; the name of the checkpoint where None.
        threads: Threads to compute with, all there are where None. They do not change the outcome.

    Raises:
        InvalidValueError: There is no such file type, or it is made of a file with ``quantize``.
    """

    name = "export_gguf"
    version = "1"
    inputs: tuple[Port, ...] = (Port(name="checkpoint", kind="checkpoint", help="A folder as transformers saves it."),)
    outputs: tuple[Port, ...] = (Port(name="model", kind="gguf", help="The same model for llama.cpp."),)

    def __init__(self, file_type: str = "F16", *, model_name: str | None = None, threads: int | None = None) -> None:
        chosen = file_type.upper()
        if chosen not in CONVERTED_TYPES:
            raise InvalidValueError("file_type", file_type, f"give one of {', '.join(CONVERTED_TYPES)}")
        self._threads = threads
        self.parameters: Mapping[str, Any] = {"file_type": chosen, "model_name": model_name}

    @property
    def tools(self) -> Mapping[str, str]:
        """The kernels, which round every number."""
        return kernel_version()

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Converts; bytes of the checkpoint are its progress."""
        checkpoint = context.inputs["checkpoint"]
        made = convert(
            checkpoint.path,
            context.folder / f"model-{self.parameters['file_type']}.gguf",
            file_type=self.parameters["file_type"],
            name=self.parameters["model_name"] or checkpoint.manifest.name,
            threads=self._threads,
            metadata=lineage_of(context.trace.origin(), checkpoint.manifest.digest).metadata(),
            on_progress=lambda progress: context.progress(progress.done_bytes, progress.total_bytes, "B"),
        )
        return {"model": made.path}
