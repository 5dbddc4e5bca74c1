"""The stage ``merge_lora`` of pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.pipeline import Port, StageContext
from llamatelemetry.unsloth.merging import DTYPES, merge_adapter
from llamatelemetry.unsloth.runtime import versions_of

__all__ = ["MergeLoraStage"]


class MergeLoraStage:
    """Merges a LoRA adapter into its base model. It is the same work whichever engine trained the adapter.

    Args:
        dtype: What the merged weights are: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for what the base
            model's are.

    Raises:
        InvalidValueError: There is no such dtype.
    """

    name = "merge_lora"
    version = "1"
    inputs: tuple[Port, ...] = (
        Port(name="base", kind="checkpoint", help="The base model in 16 bits or more."),
        Port(name="adapter", kind="adapter", help="What was learned, as PEFT and unsloth save it."),
    )
    outputs: tuple[Port, ...] = (
        Port(name="checkpoint", kind="checkpoint", help="The base model with what was learned."),
    )

    def __init__(self, *, dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto") -> None:
        if dtype not in DTYPES:
            raise InvalidValueError("dtype", dtype, f"give one of {', '.join(DTYPES)}")
        self.parameters: Mapping[str, Any] = {"dtype": dtype}

    @property
    def tools(self) -> Mapping[str, str]:
        """What it merges with.

        Raises:
            MissingDependencyError: Something of it is not installed; carries the command that installs it.
        """
        return versions_of("peft", "the stage merge_lora")

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Merges; layers are its progress."""
        made = merge_adapter(
            context.path("base"),
            context.path("adapter"),
            context.folder / "merged",
            dtype=self.parameters["dtype"],
            on_progress=lambda done, total: context.progress(done, total, "layers"),
        )
        return {"checkpoint": made.path}
