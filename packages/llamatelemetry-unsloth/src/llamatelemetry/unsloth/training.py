"""Trains an adapter with ``transformers.Trainer``, which unsloth makes faster where it is the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.unsloth.failures import explained_out_of_memory
from llamatelemetry.unsloth.loading import LoadedModel
from llamatelemetry.unsloth.quiet import without_deprecations
from llamatelemetry.unsloth.settings import TrainingSettings
from llamatelemetry.unsloth.tokens import TokenizedExamples, collator

__all__ = ["train"]


def train(
    loaded: LoadedModel,
    model: Any,
    examples: TokenizedExamples,
    settings: TrainingSettings,
    *,
    folder: Path,
    callbacks: Sequence[Any] = (),
) -> None:
    """Trains what learns of a model.

    Args:
        loaded: What the model was loaded as.
        model: The model with its adapter.
        examples: What it learns from.
        settings: How.
        folder: For the trainer, which may write there.
        callbacks: Of the trainer, told of each step.

    Raises:
        InvalidValueError: The learning rate is too high: numbers went beyond all bounds.
        OutOfMemoryError: It does not fit.
    """
    torch, transformers = loaded.runtime.torch, loaded.runtime.transformers
    padding = loaded.tokenizer.pad_token_id
    # Callbacks may print; so does unsloth, and for it standard output is no place.
    with without_deprecations(prints=loaded.engine != "unsloth"):
        trainer = transformers.Trainer(
            model=model,
            args=_arguments(loaded, model, settings, folder),
            train_dataset=examples,
            data_collator=collator(torch, 0 if padding is None else int(padding)),
            callbacks=list(callbacks),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        model.config.use_cache = False
        fix = "make batch_size or sequence_length smaller, and accumulation larger; or load_in_4bit"
        with explained_out_of_memory("while it trained", fix):
            trainer.train()
    if not all(bool(torch.isfinite(each).all()) for each in model.parameters() if each.requires_grad):
        fix = "training diverged, and the adapter holds no numbers: give a lower one"
        raise InvalidValueError("learning_rate", settings.learning_rate, fix)


def _arguments(loaded: LoadedModel, model: Any, settings: TrainingSettings, folder: Path) -> Any:
    torch = loaded.runtime.torch
    on_gpu = model.device.type == "cuda"
    return loaded.runtime.transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        # unsloth has set its own up with the adapter.
        gradient_checkpointing=settings.gradient_checkpointing and loaded.engine == "peft",
        gradient_checkpointing_kwargs={"use_reentrant": False},
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=on_gpu and model.dtype == torch.bfloat16,
        fp16=on_gpu and model.dtype == torch.float16,
        optim="adamw_torch",
        logging_steps=1,
        logging_first_step=True,
        # A step without a number must be seen, and not shown as zero.
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        label_names=["labels"],
    )
