"""What this distribution adds to llamatelemetry. Imported whenever plugins are listed: names only."""

from __future__ import annotations

from llamatelemetry.plugins import Registry, hookimpl


@hookimpl
def register_commands(group: Registry) -> None:
    """The verb that makes a model smaller."""
    group.add("quantize", "llamatelemetry.quantization.cli:quantize", summary="Make a GGUF model smaller.")
