"""What this distribution adds to llamatelemetry. Imported whenever plugins are listed: names only."""

from __future__ import annotations

from llamatelemetry.plugins import Registry, hookimpl


@hookimpl
def register_backends(registry: Registry) -> None:
    """The transformers backend."""
    registry.add(
        "transformers",
        "llamatelemetry.transformers.backend:TransformersBackend",
        summary="Any Hugging Face model, by transformers, in one batch.",
    )


@hookimpl
def register_enrichers(registry: Registry) -> None:
    """What torch's allocator holds, beside what NVML says of the GPU."""
    registry.add("torch-memory", "llamatelemetry.transformers.torch_memory:TorchMemoryEnricher")


@hookimpl
def register_checks(registry: Registry) -> None:
    """What ``doctor`` looks at."""
    registry.add("transformers", "llamatelemetry.transformers.checks:checks")


@hookimpl
def register_model_readers(registry: Registry) -> None:
    """The reader of checkpoint folders."""
    registry.add("huggingface", "llamatelemetry.transformers.shape:read_shape")
