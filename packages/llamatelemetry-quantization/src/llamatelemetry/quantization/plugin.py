"""What this distribution adds to llamatelemetry. Imported whenever plugins are listed: names only."""

from __future__ import annotations

from llamatelemetry.plugins import Registry, hookimpl


@hookimpl
def register_commands(group: Registry) -> None:
    """The verb that makes a model smaller."""
    group.add("quantize", "llamatelemetry.quantization.cli:quantize", summary="Make a GGUF model smaller.")


@hookimpl
def register_pipeline_stages(registry: Registry) -> None:
    """The stage that makes a model smaller."""
    registry.add("quantize", "llamatelemetry.quantization.stage:QuantizeStage", summary="Makes a GGUF model smaller.")
