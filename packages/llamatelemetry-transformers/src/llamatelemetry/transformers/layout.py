"""How large a model's batch and its cache are to be, where nobody says."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Final, NamedTuple

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.transformers.continuous import BatchLayout

DEFAULT_SLOTS: Final = 16
DEFAULT_PAGE_SIZE: Final = 32

_CPU_CONTEXT: Final = 4096
_CPU_CONTEXTS: Final = 4
"""On a CPU the cache is of the memory that everything else needs too: it holds so many contexts of such a length."""

_CPU_STEP_TOKENS: Final = 256
_GPU_STEP_TOKENS: Final = 2048
"""A longer prompt takes several steps, and each step makes the answers under way wait."""


class Sizes(NamedTuple):
    """A batch's layout, and the tokens that one request may have of it; None where the model sets no limit."""

    layout: BatchLayout
    context_length: int | None


def sizes_of(
    model: Any,
    *,
    slots: int | None = None,
    context_length: int | None = None,
    page_size: int | None = None,
    kv_tokens: int | None = None,
    max_batch_tokens: int | None = None,
) -> Sizes:
    """What is asked for, and the rest as it fits the model and where it is.

    Args:
        model: A ``PreTrainedModel``.
        slots: Requests at once.
        context_length: Tokens that one of them may have; never more than the model is made for.
        page_size: Tokens in a page.
        kv_tokens: Tokens in the whole cache.
        max_batch_tokens: Tokens that one step computes.

    Raises:
        InvalidValueError: A number is too small, or no whole one.
    """
    for name, value, low in (
        ("slots", slots, 1),
        ("context_length", context_length, 2),
        ("page_size", page_size, 4),
        ("kv_tokens", kv_tokens, 2),
        ("max_batch_tokens", max_batch_tokens, 1),
    ):
        if value is not None and (not isinstance(value, Integral) or value < low):
            raise InvalidValueError(name, value, f"give a whole number of at least {low}")
    on_cpu = model.device.type == "cpu"
    slots = DEFAULT_SLOTS if slots is None else slots
    page_size = DEFAULT_PAGE_SIZE if page_size is None else page_size
    made_for = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    usual = _CPU_CONTEXT if on_cpu else None
    context = min((each for each in (context_length or usual, made_for) if each is not None), default=None)
    if kv_tokens is None and on_cpu:
        kv_tokens = min(slots, _CPU_CONTEXTS) * (context or _CPU_CONTEXT)
    layout = BatchLayout(
        slots=slots,
        page_size=page_size,
        num_blocks=None if kv_tokens is None else -(-kv_tokens // page_size),
        max_batch_tokens=max(slots, max_batch_tokens or (_CPU_STEP_TOKENS if on_cpu else _GPU_STEP_TOKENS)),
    )
    return Sizes(layout, context)
