"""What this distribution adds to llamatelemetry. Imported whenever plugins are listed: names only."""

from __future__ import annotations

from llamatelemetry.plugins import Registry, hookimpl


@hookimpl
def register_commands(group: Registry) -> None:
    """The verbs that make GGUF files."""
    group.add(
        "dynamic",
        "llamatelemetry.quantization.dynamic_cli:dynamic",
        summary="Make a GGUF model smaller with the types that hurt it least.",
    )
    group.add(
        "export-gguf",
        "llamatelemetry.quantization.export_cli:export_gguf",
        summary="Make a GGUF file of a Hugging Face checkpoint.",
    )
    group.add(
        "imatrix",
        "llamatelemetry.quantization.imatrix_cli:imatrix",
        summary="Measure how much each column of a GGUF model's weights matters.",
    )
    group.add(
        "nf4",
        "llamatelemetry.quantization.nf4_cli:nf4",
        summary="Say what each matrix of a checkpoint would lose in NF4 or FP4.",
    )
    group.add(
        "quality",
        "llamatelemetry.quantization.quality_cli:quality",
        summary="Measure what a GGUF model lost: perplexity, and divergence from its parent.",
    )
    group.add("quantize", "llamatelemetry.quantization.cli:quantize", summary="Make a GGUF model smaller.")


@hookimpl
def register_pipeline_stages(registry: Registry) -> None:
    """The stages that make GGUF files."""
    registry.add(
        "compare",
        "llamatelemetry.quantization.compare_stage:CompareStage",
        summary="Puts reports on several models side by side.",
    )
    registry.add(
        "dynamic",
        "llamatelemetry.quantization.dynamic_stage:DynamicStage",
        summary="Makes a GGUF model smaller with the types that hurt it least.",
    )
    registry.add(
        "export_gguf",
        "llamatelemetry.quantization.export_stage:ExportGGUFStage",
        summary="Makes a GGUF file of a Hugging Face checkpoint.",
    )
    registry.add(
        "imatrix",
        "llamatelemetry.quantization.imatrix_stage:ImatrixStage",
        summary="Measures how much each column of a GGUF model's weights matters.",
    )
    registry.add("quantize", "llamatelemetry.quantization.stage:QuantizeStage", summary="Makes a GGUF model smaller.")
    registry.add(
        "validate",
        "llamatelemetry.quantization.validate_stage:ValidateStage",
        summary="Measures what a GGUF model lost, and holds it to limits.",
    )
