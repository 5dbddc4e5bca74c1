"""What this distribution adds to llamatelemetry. Imported whenever plugins are listed: names only."""

from __future__ import annotations

from llamatelemetry.plugins import Registry, hookimpl


@hookimpl
def register_checks(registry: Registry) -> None:
    """What ``doctor`` looks at."""
    registry.add("unsloth", "llamatelemetry.unsloth.checks:checks")


@hookimpl
def register_commands(group: Registry) -> None:
    """The verb that looks into an adapter."""
    group.add(
        "adapter",
        "llamatelemetry.unsloth.adapter_cli:adapter",
        summary="Say what a LoRA adapter is: rank, targets, base model, size.",
    )


@hookimpl
def register_pipeline_stages(registry: Registry) -> None:
    """The stages that train an adapter and merge it."""
    registry.add(
        "finetune",
        "llamatelemetry.unsloth.finetune_stage:FinetuneStage",
        summary="Trains a LoRA adapter on a dataset.",
    )
    registry.add(
        "merge_lora",
        "llamatelemetry.unsloth.merge_stage:MergeLoraStage",
        summary="Merges a LoRA adapter into its base model.",
    )
