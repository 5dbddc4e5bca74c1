"""What a tensor is for, as far as llama.cpp's rules tell tensors apart: by name."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

__all__ = ["Role", "block_of", "role_of"]


class Role(Enum):
    """What a tensor is for."""

    OUTPUT = "output"
    EMBEDDING = "embedding"
    VALUE = "value"
    KEY = "key"
    QUERY = "query"
    ATTENTION_OUTPUT = "attention output"
    UP = "up"
    GATE = "gate"
    DOWN = "down"
    OTHER = "other"


_EMBEDDINGS: Final = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
# In the order in which they are looked for. A matrix of queries, keys and values together counts as values.
_PARTS: Final = (
    ("attn_qkv.weight", Role.VALUE),
    ("attn_kv_b.weight", Role.VALUE),
    ("attn_v.weight", Role.VALUE),
    ("attn_k.weight", Role.KEY),
    ("attn_q.weight", Role.QUERY),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_up", Role.UP),
    ("ffn_gate", Role.GATE),
    ("ffn_down", Role.DOWN),
)
_BLOCK: Final = re.compile(r"blk\.(\d+)")


def role_of(name: str) -> Role:
    """What the tensor of that name is for."""
    if name == "output.weight":
        return Role.OUTPUT
    if name in _EMBEDDINGS:
        return Role.EMBEDDING
    return next((role for part, role in _PARTS if part in name), Role.OTHER)


def block_of(name: str) -> int:
    """Number of the transformer block that a tensor belongs to; -1 for none."""
    found = _BLOCK.match(name)
    return int(found[1]) if found else -1
