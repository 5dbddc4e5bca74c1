"""How a model is to be served, and how many cells of KV cache llama.cpp makes of that.

The rules are those of the constructor of ``llama_context`` in llama.cpp's ``src/llama-context.cpp`` and
of ``src/llama-kv-cache-iswa.cpp``: contexts are padded, and a layer with a sliding window keeps
less than a whole context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from llamatelemetry.errors import InvalidValueError

CELL_PADDING: Final = 256
"""Cells of KV cache come in multiples of this: one cell holds the keys or values of one token."""

MAX_SLOTS: Final = 256
"""LLAMA_MAX_SEQ in llama.cpp's ``src/llama-cparams.h``."""

DEFAULT_RESERVE_BYTES: Final = 2**30
"""Left free on each GPU for what llama.cpp's buffers do not hold: the CUDA context, cuBLAS, temporary copies.

llama.cpp leaves as much itself where it chooses the layers (``--fit-target``). Of it, an empty CUDA
context takes 107 MiB on an RTX 4060 Ti and 555 MiB on an RTX PRO 6000, as measured in llama.cpp's pull
request 23604.
"""


@dataclass(frozen=True, slots=True)
class CacheType:
    """How numbers are kept in the KV cache: ``block`` of them take ``block_bytes``."""

    block: int
    block_bytes: int


CACHE_TYPES: Final[Mapping[str, CacheType]] = MappingProxyType(
    {
        "f32": CacheType(1, 4),
        "f16": CacheType(1, 2),
        "bf16": CacheType(1, 2),
        "q8_0": CacheType(32, 34),
        "q5_1": CacheType(32, 24),
        "q5_0": CacheType(32, 22),
        "q4_1": CacheType(32, 20),
        "q4_0": CacheType(32, 18),
        "iq4_nl": CacheType(32, 18),
    }
)
"""What ``llama-server`` takes for ``--cache-type-k`` and ``--cache-type-v``; sizes as in ggml-common.h."""

UNQUANTIZED_TYPES: Final[tuple[str, ...]] = tuple(name for name, kind in CACHE_TYPES.items() if kind.block == 1)
"""Those that keep each number on its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How a model is to be served.

    Attributes:
        context_length: Tokens that one slot can hold.
        slots: Requests that run at once.
        unified: The slots share one KV cache, of ``slots`` times ``context_length`` tokens.
        key_type: How keys are kept in the cache: a name of :data:`CACHE_TYPES`.
        value_type: How values are.
        batch: Tokens that one call may bring, ``--batch-size``.
        ubatch: Tokens that are computed at once, ``--ubatch-size``.
        flash_attention: Computes attention without keeping all its scores; a cache of quantized values needs it.
        logit_rows: Tokens at a time whose logits memory is kept for; as many as slots when None. Embeddings,
            and llama.cpp before June 2026 (its pull request 23861), take ``ubatch``.
        reserve_bytes: What stays free on each GPU for what no buffer of llama.cpp holds.

    Raises:
        InvalidValueError: A value is out of range, or two do not go together.
    """

    context_length: int
    slots: int = 1
    unified: bool = False
    key_type: str = "f16"
    value_type: str = "f16"
    batch: int = 2048
    ubatch: int = 512
    flash_attention: bool = True
    logit_rows: int | None = None
    reserve_bytes: int = DEFAULT_RESERVE_BYTES

    def __post_init__(self) -> None:
        for field in ("context_length", "slots", "batch", "ubatch", "logit_rows"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InvalidValueError(field, value, "give a whole number of at least 1")
        if self.slots > MAX_SLOTS:
            raise InvalidValueError("slots", self.slots, f"llama.cpp has at most {MAX_SLOTS}")
        if self.reserve_bytes < 0:
            raise InvalidValueError("reserve_bytes", self.reserve_bytes, "give 0 or more")
        for field in ("key_type", "value_type"):
            if getattr(self, field) not in CACHE_TYPES:
                raise InvalidValueError(field, getattr(self, field), f"give one of {', '.join(CACHE_TYPES)}")
        if CACHE_TYPES[self.value_type].block > 1 and not self.flash_attention:
            raise InvalidValueError("value_type", self.value_type, "quantized values need flash attention; give f16")

    @property
    def context_total(self) -> int:
        """Tokens that all slots hold together: ``--ctx-size``."""
        return self.context_length * self.slots

    @property
    def streams(self) -> int:
        """Separate caches there are: one for each slot, or one for all."""
        return 1 if self.unified else self.slots

    @property
    def cells(self) -> int:
        """Cells in one of them, for a layer that looks back at everything."""
        padded = pad(self.context_total)
        return padded if self.unified else pad(padded // self.slots)

    @property
    def tokens_at_once(self) -> int:
        """Tokens of the largest piece that is computed at once."""
        return min(self.ubatch, self.batch, self.context_total)

    @property
    def tokens_reserved(self) -> int:
        """Tokens that memory to compute with is kept for: as many for each slot."""
        return -(-self.tokens_at_once // self.slots) * self.slots

    @property
    def rows(self) -> int:
        """Rows of logits that memory is kept for."""
        return min(self.logit_rows or self.slots, self.tokens_at_once)

    def cells_of(self, window: int | None) -> int:
        """Cells in one of the caches, for a layer that looks back at ``window`` tokens; at everything when None.

        What is computed at once has to fit beside the window, and slots that share a cache each have their own.
        """
        if window is None:
            return self.cells
        windows = window * (self.slots if self.unified else 1)
        return pad(min(self.cells, windows + self.tokens_at_once))


def pad(tokens: int) -> int:
    """Tokens, up to the next whole number of :data:`CELL_PADDING`."""
    return -(-tokens // CELL_PADDING) * CELL_PADDING
