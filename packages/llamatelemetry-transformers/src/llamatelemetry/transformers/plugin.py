"""What this distribution adds to llamatelemetry. Imported whenever plugins are listed: names only."""

from __future__ import annotations

from llamatelemetry.plugins import Registry, hookimpl


@hookimpl
def register_model_readers(registry: Registry) -> None:
    """The reader of checkpoint folders."""
    registry.add("huggingface", "llamatelemetry.transformers.shape:read_shape")
