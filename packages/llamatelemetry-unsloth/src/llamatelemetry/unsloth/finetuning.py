"""From a base model and a dataset to an adapter."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from llamatelemetry.unsloth.checkpoint import check_checkpoint
from llamatelemetry.unsloth.dataset import read_examples
from llamatelemetry.unsloth.loading import load_model
from llamatelemetry.unsloth.lora import add_adapter, save_adapter
from llamatelemetry.unsloth.settings import Engine, LoraSettings, TrainingSettings
from llamatelemetry.unsloth.tokens import TokenizedExamples
from llamatelemetry.unsloth.training import train
from llamatelemetry.unsloth.whole_folder import check_free

__all__ = ["finetune"]

_log: Final = logging.getLogger(__name__)


def finetune(
    base: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    engine: Engine = "unsloth",
    lora: LoraSettings | None = None,
    training: TrainingSettings | None = None,
    load_in_4bit: bool = False,
    base_model: str | None = None,
    callbacks: Sequence[Any] = (),
) -> Path:
    """Trains an adapter, on the GPU if there is one.

    Args:
        base: Folder of the base model, as transformers saves it.
        dataset: A JSONL file; see :mod:`llamatelemetry.unsloth.dataset`.
        folder: Where the adapter goes; it appears when it is whole.
        engine: ``unsloth``, or ``peft`` for PEFT as it is.
        lora: Shape of the adapter.
        training: How it is trained.
        load_in_4bit: Train on a base model that is quantized to four bits while it is loaded.
        base_model: What the adapter calls its base model; the name of the folder where None.
        callbacks: Of ``transformers.Trainer``, such as ``stage.trainer_callback()``.

    Raises:
        MissingDependencyError: What the engine takes is not installed; carries the command that installs it.
        ModelFileError: The base model or the dataset is not there, or cannot be read.
        InvalidValueError: A line of the dataset is no example, a target is not in the model, training diverged, or
            something is at the place of the folder.
        OutOfMemoryError: It does not fit.
    """
    lora, training = lora or LoraSettings(), training or TrainingSettings()
    base, folder = Path(base), Path(folder)
    check_free(folder)
    check_checkpoint(base)
    for _ in read_examples(Path(dataset)):
        break  # What is no dataset is known before seconds go into importing and loading.
    loaded = load_model(
        base,
        engine=engine,
        sequence_length=training.sequence_length,
        load_in_4bit=load_in_4bit,
        gradient_checkpointing=training.gradient_checkpointing,
    )
    examples = TokenizedExamples(
        read_examples(Path(dataset)), loaded.tokenizer, sequence_length=training.sequence_length
    )
    if examples.cut or examples.dropped:
        told = "%s of %s examples were longer than %s tokens and were cut; %s more taught nothing and were left out"
        _log.warning(told, examples.cut, len(examples), training.sequence_length, examples.dropped)
    model = add_adapter(loaded, lora, seed=training.seed, gradient_checkpointing=training.gradient_checkpointing)
    with tempfile.TemporaryDirectory(prefix="llamatelemetry-trainer-") as scratch:
        train(loaded, model, examples, training, folder=Path(scratch), callbacks=callbacks)
    return save_adapter(model, folder, base_model=base_model or base.name)
