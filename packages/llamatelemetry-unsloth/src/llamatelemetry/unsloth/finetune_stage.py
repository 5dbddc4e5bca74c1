"""The stage ``finetune`` of pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llamatelemetry.pipeline import Port, StageContext
from llamatelemetry.unsloth.finetuning import finetune
from llamatelemetry.unsloth.runtime import versions_of
from llamatelemetry.unsloth.settings import Engine, LoraSettings, Schedule, TrainingSettings, check_engine

__all__ = ["FinetuneStage"]


class FinetuneStage:
    """Trains a LoRA adapter on a dataset. Steps and losses are on its span and in the metrics.

    Args:
        engine: ``unsloth``, or ``peft`` for PEFT as it is. Nothing stands in for unsloth unless it is asked for.
        steps: Optimizer steps.
        rank: Columns of A and rows of B.
        alpha: What is learned counts ``alpha / rank`` times; as the rank where None.
        dropout: Share of its input that each layer of the adapter leaves out in training.
        targets: Layers that get one, by the last part of their names; where None, the projections of attention and of
            the feed-forward network.
        learning_rate: Learning rate after the warm-up.
        schedule: What becomes of it then: ``linear``, ``cosine`` or ``constant``.
        warmup_steps: Steps in which it rises from nothing.
        batch_size: Examples at once.
        accumulation: Batches that make one step.
        sequence_length: Tokens that an example may have; what is longer is cut.
        gradient_checkpointing: Compute again in the backward pass what would else be kept.
        load_in_4bit: Train on a base model that is quantized to four bits while it is loaded.
        seed: Decides the adapter's first values and the order of examples.
        base_model: What the adapter calls its base model, such as its name on the hub; the name of what is given where
            None.

    Raises:
        InvalidValueError: One of them cannot be used.
    """

    name = "finetune"
    version = "1"
    inputs: tuple[Port, ...] = (
        Port(name="base", kind="checkpoint", help="The base model: a folder as transformers saves it."),
        Port(name="dataset", kind="dataset", help="JSONL: text, messages, or prompt and completion."),
    )
    outputs: tuple[Port, ...] = (Port(name="adapter", kind="adapter", help="What was learned, as PEFT saves it."),)

    def __init__(
        self,
        *,
        engine: Engine = "unsloth",
        steps: int = 60,
        rank: int = 16,
        alpha: int | None = None,
        dropout: float = 0.0,
        targets: Sequence[str] | None = None,
        learning_rate: float = 2e-4,
        schedule: Schedule = "linear",
        warmup_steps: int = 0,
        batch_size: int = 2,
        accumulation: int = 1,
        sequence_length: int = 1024,
        gradient_checkpointing: bool = True,
        load_in_4bit: bool = False,
        seed: int = 3407,
        base_model: str | None = None,
    ) -> None:
        check_engine(engine)
        self._engine: Engine = engine
        self._load_in_4bit = load_in_4bit
        self._base_model = base_model
        self._lora = LoraSettings(
            rank=rank, alpha=alpha, dropout=dropout, targets=None if targets is None else tuple(targets)
        )
        self._training = TrainingSettings(
            steps=steps,
            learning_rate=learning_rate,
            schedule=schedule,
            warmup_steps=warmup_steps,
            batch_size=batch_size,
            accumulation=accumulation,
            sequence_length=sequence_length,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
        )

    @property
    def parameters(self) -> Mapping[str, Any]:
        """All that it was told."""
        shape = asdict(self._lora) | {"targets": None if self._lora.targets is None else list(self._lora.targets)}
        told = {"engine": self._engine, "load_in_4bit": self._load_in_4bit, "base_model": self._base_model}
        return {**told, **shape, **asdict(self._training)}

    @property
    def tools(self) -> Mapping[str, str]:
        """What it trains with.

        Raises:
            MissingDependencyError: Something of it is not installed; carries the command that installs it.
        """
        needed_for = f"the stage finetune with engine={self._engine!r}"
        return versions_of(self._engine, needed_for, load_in_4bit=self._load_in_4bit)

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Trains; steps are its progress."""
        base = context.inputs["base"]
        context.progress(0, self._training.steps, "steps")
        made = finetune(
            base.path,
            context.path("dataset"),
            context.folder / "adapter",
            engine=self._engine,
            lora=self._lora,
            training=self._training,
            load_in_4bit=self._load_in_4bit,
            base_model=self._base_model or base.manifest.name,
            callbacks=[context.trace.trainer_callback()],
        )
        return {"adapter": made}
