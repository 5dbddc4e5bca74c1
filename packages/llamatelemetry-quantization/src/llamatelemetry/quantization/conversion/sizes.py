"""The sizes of a model, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from llamatelemetry.quantization.conversion.config_values import ConfigValues

__all__ = ["Sizes", "read_sizes"]

_MOST_BLOCKS: Final = 1024
_MOST_HEADS: Final = 4096
_MOST_WIDTH: Final = 2**20
_MOST_VOCABULARY: Final = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the shapes of all tensors follow from.

    Attributes:
        blocks: Transformer blocks.
        hidden: Numbers of a token between them.
        wide: Numbers of a token inside a feed-forward layer.
        heads: Heads of queries.
        kv_heads: Heads of keys and values.
        head: Numbers in one head.
        vocabulary: Tokens.
        context: Tokens that the model was made for.
    """

    blocks: int
    hidden: int
    wide: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    context: int

    @property
    def named(self) -> Mapping[str, int]:
        """Sizes of tensors, by the names that the tables of :mod:`families` use."""
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        return MappingProxyType(
            {
                "hidden": self.hidden,
                "wide": self.wide,
                "two wide": 2 * self.wide,
                "queries": queries,
                "keys": keys,
                "queries, keys, values": queries + 2 * keys,
                "head": self.head,
                "vocabulary": self.vocabulary,
            }
        )


def read_sizes(values: ConfigValues, *, default_head: int | None = None) -> Sizes:
    """The sizes that a configuration gives.

    Args:
        values: The configuration.
        default_head: Numbers in a head where it does not say; None: as many as make the heads as wide as the model.

    Raises:
        ModelFileError: One is missing, or cannot be that of a model.
    """
    hidden = values.whole("hidden_size", most=_MOST_WIDTH)
    heads = values.whole("num_attention_heads", most=_MOST_HEADS)
    kv_heads = values.whole("num_key_value_heads", heads, most=_MOST_HEADS)
    if heads % kv_heads:
        raise values.refused("num_key_value_heads", f"a divisor of the {heads} heads of queries is needed")
    if not values.has("head_dim") and default_head is None and hidden % heads:
        raise values.refused("num_attention_heads", f"a divisor of the width {hidden} is needed")
    head = values.whole("head_dim", default_head or hidden // heads, most=_MOST_WIDTH)
    if head % 2:
        raise values.refused("head_dim", "an even number is needed")
    return Sizes(
        blocks=values.whole("num_hidden_layers", most=_MOST_BLOCKS),
        hidden=hidden,
        wide=values.whole("intermediate_size", most=_MOST_WIDTH),
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        vocabulary=values.whole("vocab_size", most=_MOST_VOCABULARY),
        context=values.whole("max_position_embeddings"),
    )
