"""What a training is told, checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from llamatelemetry.errors import InvalidValueError

__all__ = ["ENGINES", "Engine", "LoraSettings", "Schedule", "TrainingSettings", "check_engine"]

Engine = Literal["unsloth", "peft"]
"""Who trains: unsloth, or PEFT as it is."""
Schedule = Literal["constant", "cosine", "linear"]
"""What becomes of the learning rate after the warm-up."""
ENGINES: Final[tuple[str, ...]] = get_args(Engine)


def check_engine(engine: str) -> None:
    """Holds a name to be one of an engine.

    Raises:
        InvalidValueError: It is not.
    """
    if engine not in ENGINES:
        raise InvalidValueError("engine", engine, f"give one of {', '.join(ENGINES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """The shape of an adapter.

    Attributes:
        rank: Columns of A and rows of B: how much an adapter can learn, and how large it is.
        alpha: What is learned counts ``alpha / rank`` times; as the rank where None.
        dropout: Share of its input that each layer of the adapter leaves out in training.
        targets: Layers that get one, by the last part of their names; where None, the projections of attention
            and of the feed-forward network.
    """

    rank: int = 16
    alpha: int | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            InvalidValueError: One cannot be used.
        """
        _at_least("rank", self.rank, 1)
        if self.alpha is not None:
            _at_least("alpha", self.alpha, 1)
        if not 0 <= self.dropout < 1:
            raise InvalidValueError("dropout", self.dropout, "give a share from 0 to less than 1")
        if self.targets is not None and (not self.targets or not all(self.targets)):
            raise InvalidValueError("targets", list(self.targets), "name at least one layer, or leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How an adapter is trained.

    Attributes:
        steps: Optimizer steps.
        learning_rate: Learning rate after the warm-up.
        schedule: What becomes of it then.
        warmup_steps: Steps in which it rises from nothing.
        batch_size: Examples at once.
        accumulation: Batches that make one step.
        sequence_length: Tokens that an example may have; what is longer is cut.
        gradient_checkpointing: Compute again in the backward pass what would else be kept: slower, in less memory.
        seed: Decides the adapter's first values and the order of examples.
    """

    steps: int = 60
    learning_rate: float = 2e-4
    schedule: Schedule = "linear"
    warmup_steps: int = 0
    batch_size: int = 2
    accumulation: int = 1
    sequence_length: int = 1024
    gradient_checkpointing: bool = True
    seed: int = 3407

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            InvalidValueError: One cannot be used.
        """
        for name in ("steps", "batch_size", "accumulation"):
            _at_least(name, getattr(self, name), 1)
        _at_least("sequence_length", self.sequence_length, 2)
        _at_least("warmup_steps", self.warmup_steps, 0)
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InvalidValueError("learning_rate", self.learning_rate, "give a number above 0")
        if self.schedule not in get_args(Schedule):
            raise InvalidValueError("schedule", self.schedule, f"give one of {', '.join(get_args(Schedule))}")
        if not 0 <= self.seed < 2**32:
            raise InvalidValueError("seed", self.seed, "give a whole number from 0 to 4294967295")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InvalidValueError(name, value, f"give a whole number from {least}")
