"""What transformers' continuous batching does to bystanders, put right on the objects of one batch.

Nothing of transformers is changed for anybody else: the objects get a class of their own, which is
theirs in all but one method.
"""

from __future__ import annotations

import threading
import weakref
from functools import cache
from typing import Any, Final

_lock: Final = threading.Lock()
_lent: Final[weakref.WeakKeyDictionary[Any, tuple[str, int]]] = weakref.WeakKeyDictionary()
"""By model, the attention that it had before its first batch, and how many batches run on it."""


def lend_attention(model: Any) -> None:
    """Remembers which attention a model has, before a batch may switch it. To be called before each batch."""
    with _lock:
        own, batches = _lent.get(model, (model.config._attn_implementation, 0))  # noqa: SLF001 - told nowhere else
        _lent[model] = own, batches + 1


def give_back_attention(model: Any) -> None:
    """Gives a model the attention back that it had, after its last batch. To be called after each batch."""
    with _lock:
        own, batches = _lent.pop(model)
        if batches > 1:
            _lent[model] = own, batches - 1
        elif model.config._attn_implementation != own:  # noqa: SLF001
            model.set_attn_implementation(own)


def mend(processor: Any) -> None:
    """Puts a batch right that does not run yet.

    Args:
        processor: A ``ContinuousBatchProcessor``.
    """
    scheduler, inputs = processor.scheduler, processor.inputs_and_outputs
    scheduler.__class__ = _mended_scheduler(scheduler.__class__)
    inputs.__class__ = _mended_inputs(inputs.__class__)


@cache
def _mended_scheduler(kind: Any) -> Any:
    class MendedScheduler(kind):  # type: ignore[misc]
        """Lets waiting requests in again when one leaves, and not only when one ends by itself."""

        def clear_cancelled_requests(self) -> Any:
            cancelled = super().clear_cancelled_requests()
            if cancelled:
                self.block_new_requests = False
            return cancelled

    return MendedScheduler


@cache
def _mended_inputs(kind: Any) -> Any:
    class MendedInputs(kind):  # type: ignore[misc]
        """Says nothing of causality, which a mask or the model's own attention says already.

        A model that is told writes it into its configuration for as long as a step takes, and whoever
        calls the same model meanwhile in another thread gets an attention that looks ahead.
        """

        def get_model_kwargs(self, *args: Any, **options: Any) -> Any:
            inputs = super().get_model_kwargs(*args, **options)
            inputs.pop("is_causal", None)
            return inputs

    return MendedInputs
