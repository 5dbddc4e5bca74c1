"""What is known of a model that runs in this process, from its file: nobody is there to be asked."""

from __future__ import annotations

import os
from pathlib import Path

from llamatelemetry.artifacts.evidence import evidence_of
from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.errors import ModelFileError
from llamatelemetry.llama.gguf import GgufFile, read_gguf
from llamatelemetry.llama.model_files import PROVIDER, model_name

UNKNOWN = ModelInfo(model="unknown", provider=PROVIDER, in_process=True)
"""A model of which nothing has been heard yet."""


def observed_model(
    path: str | None, *, name: str | None = None, embeddings: bool = False, gpus: tuple[str, ...] | None = None
) -> ModelInfo:
    """Describes a model as the spans of its inferences do. Reads the header of its file, in milliseconds.

    Args:
        path: Its file.
        name: What it is called, if not as its file is.
        embeddings: Whether it makes embeddings.
        gpus: GPUs that it uses; None for not known.
    """
    header = None if path is None else _header(path)
    # Its digest is not computed: that would keep the application waiting for its own model.
    lineage = None if path is None or header is None else evidence_of(Path(path), header.metadata).judge(None)
    return ModelInfo(
        model=spelled(name or path or UNKNOWN.model),
        provider=PROVIDER,
        in_process=True,
        architecture=None if header is None else header.architecture,
        quantization=None if header is None else header.quantization,
        parameters=None if header is None else header.parameters,
        context_length=None if header is None else header.context_length,
        kv_bytes_per_token=None if header is None else header.kv_bytes_per_token,
        embeddings=embeddings,
        lineage=lineage,
        pid=os.getpid(),
        gpus=gpus,
    )


def spelled(name: str) -> str:
    """A model's name. Both libraries call a model by its file's whole path where nobody gave it a name."""
    return model_name(name) if name.endswith(".gguf") else name


def _header(path: str) -> GgufFile | None:
    try:
        return read_gguf(Path(path))
    except (ModelFileError, OSError):
        return None
