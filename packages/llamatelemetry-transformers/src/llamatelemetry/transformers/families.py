"""What transformers takes for granted of a model family, because ``config.json`` need not say it.

A file written by transformers leaves out what equals the default of the family's configuration
class, most of all in a nested ``text_config``: the one of Gemma 3 4B does not name its heads or its
vocabulary. Figures are those of the configuration classes of transformers 5.23. A family that is
not here has to say everything itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final


class Windows(Enum):
    """Which layers look back at ``sliding_window`` tokens only, where ``layer_types`` does not say it."""

    NONE = auto()
    """None does."""
    UNKNOWN = auto()
    """Nobody knows; none is taken to, because that takes most memory."""
    ALL = auto()
    """All do."""
    LATE = auto()
    """Those from ``max_window_layers`` on do."""
    PERIODIC = auto()
    """All do but each that ends a period of ``sliding_window_pattern`` layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a configuration class of transformers says where ``config.json`` does not.

    Attributes:
        defaults: Keys of ``config.json`` to the whole numbers that count without them.
        tied: Whether the token embeddings are the output matrix too.
        windows: Which layers have a sliding window.
        windows_asked_for: True where ``use_sliding_window`` has to be true for any of them.
        norms: Norms of the hidden state in each layer.
        head_norms: True where queries and keys have norms of their own.
        qkv_bias: True where queries, keys and values have biases whatever ``attention_bias`` says.
    """

    defaults: Mapping[str, int]
    tied: bool = False
    windows: Windows = Windows.NONE
    windows_asked_for: bool = False
    norms: int = 2
    head_norms: bool = False
    qkv_bias: bool = False


_KEYS: Final = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size", "max_position_embeddings"),
)
_AS_HEADS: Final = 0
"""Stands for as many heads of keys and values as of queries."""


def _sizes(sizes: tuple[int, ...], **more: int) -> Mapping[str, int]:
    named = dict(zip(_KEYS, sizes, strict=True)) | more
    return MappingProxyType({key: size for key, size in named.items() if size != _AS_HEADS})


_GEMMA_3: Final = Family(
    defaults=_sizes(
        (2304, 26, 8, 4, 9216, 262_208, 131_072), head_dim=256, sliding_window=4096, sliding_window_pattern=6
    ),
    tied=True,
    windows=Windows.PERIODIC,
    norms=4,
    head_norms=True,
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "llama": Family(defaults=_sizes((4096, 32, 32, _AS_HEADS, 11_008, 32_000, 2048))),
        "mistral": Family(
            defaults=_sizes((4096, 32, 32, 8, 14_336, 32_000, 131_072), sliding_window=4096), windows=Windows.ALL
        ),
        "mixtral": Family(
            defaults=_sizes((4096, 32, 32, 8, 14_336, 32_000, 131_072), num_experts=8, num_experts_per_tok=2),
            windows=Windows.ALL,
        ),
        "qwen2": Family(
            defaults=_sizes((4096, 32, 32, 32, 22_016, 151_936, 32_768), sliding_window=4096, max_window_layers=28),
            windows=Windows.LATE,
            windows_asked_for=True,
            qkv_bias=True,
        ),
        "qwen2_moe": Family(
            defaults=_sizes(
                (2048, 24, 16, 16, 5632, 151_936, 32_768),
                num_experts=60,
                num_experts_per_tok=4,
                moe_intermediate_size=1408,
                shared_expert_intermediate_size=5632,
            ),
            qkv_bias=True,
        ),
        "qwen3": Family(
            defaults=_sizes(
                (4096, 32, 32, 32, 22_016, 151_936, 32_768), head_dim=128, sliding_window=4096, max_window_layers=28
            ),
            windows=Windows.LATE,
            windows_asked_for=True,
            head_norms=True,
        ),
        "qwen3_moe": Family(
            defaults=_sizes(
                (2048, 24, 32, 4, 6144, 151_936, 32_768),
                sliding_window=4096,
                num_experts=128,
                num_experts_per_tok=8,
                moe_intermediate_size=768,
            ),
            windows=Windows.ALL,
            windows_asked_for=True,
            head_norms=True,
        ),
        "gemma": Family(defaults=_sizes((3072, 28, 16, 16, 24_576, 256_000, 8192), head_dim=256), tied=True),
        "gemma2": Family(
            defaults=_sizes(
                (2304, 26, 8, 4, 9216, 256_000, 8192), head_dim=256, sliding_window=4096, sliding_window_pattern=2
            ),
            tied=True,
            windows=Windows.PERIODIC,
            norms=4,
        ),
        "gemma3": _GEMMA_3,
        "gemma3_text": _GEMMA_3,
        "phi3": Family(defaults=_sizes((3072, 32, 32, _AS_HEADS, 8192, 32_064, 4096)), windows=Windows.ALL),
        "smollm3": Family(defaults=_sizes((2048, 36, 16, 4, 11_008, 128_256, 32_768)), tied=True),
    }
)
"""Families by the ``model_type`` of ``config.json``."""

UNKNOWN: Final = Family(defaults=MappingProxyType({}), windows=Windows.UNKNOWN)
"""Stands for a family that is not known: built like Llama, and nothing taken for granted."""
