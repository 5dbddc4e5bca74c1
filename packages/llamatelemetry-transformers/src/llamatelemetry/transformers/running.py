"""Chooses how a model is run: in one continuous batch where that gives its answers, else one request at a time."""

from __future__ import annotations

import logging
from typing import Any, Final

from llamatelemetry.errors import BackendStartError, OutOfMemoryError
from llamatelemetry.transformers.continuous import BatchLayout, ContinuousBatch
from llamatelemetry.transformers.coverage import probe, why_not_batched
from llamatelemetry.transformers.single import SingleGenerator

_logger: Final = logging.getLogger(__name__)

Runner = ContinuousBatch | SingleGenerator
"""Makes answers; both take tasks and give runs."""


def start_runner(model: Any, name: str, layout: BatchLayout, *, batching: bool | None) -> tuple[Runner, str]:
    """Starts what runs a model, and says in the log which that is.

    Args:
        model: A ``PreTrainedModel``.
        name: What it is called.
        layout: How large a batch is.
        batching: Whether it is run in a batch; None finds out whether it can be.

    Returns:
        What runs it, and why that is no batch; the latter is empty for one.

    Raises:
        OutOfMemoryError: There is no room for the cache.
        BackendStartError: It must be batched and cannot be.
    """
    if batching is False:
        return SingleGenerator(model), "batching=False was given"
    started = _try_batch(model, layout)
    if isinstance(started, ContinuousBatch):
        _logger.info("%s runs in one continuous batch of %d requests", name, layout.slots)
        return started, ""
    if batching:
        raise BackendStartError(f"{name} cannot be batched: {started}. Leave batching out to run one request at a time")
    _logger.warning("%s runs one request at a time, with plain generate: %s", name, started)
    return SingleGenerator(model), started


def _try_batch(model: Any, layout: BatchLayout) -> ContinuousBatch | str:
    """A batch that gives the model's own answers, or why there is none."""
    reason = why_not_batched(model)
    if reason:
        return reason
    try:
        question = probe(model)
        batch = ContinuousBatch(model, layout)
    except OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a model that it does not know fails there in any way
        return f"continuous batching does not take it ({_told(error)})"
    try:
        if question.check(batch):
            return batch
        reason = "its answers in a batch are not the ones that it gives by itself"
    except Exception as error:  # noqa: BLE001 - likewise
        reason = f"its batch fails ({_told(error)})"
    batch.close()
    return reason


def _told(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
