"""Token ids of a prompt, packed: what makes comparing prefixes a matter of ``memcmp``.

A list of a thousand ids costs eight kilobytes and a loop to compare; packed they cost four, and
slices of them compare, hash and sort in C. Packed once, when a prompt is counted, they serve the
slot table and the page table alike.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NewType

PackedTokens = NewType("PackedTokens", bytes)
"""Token ids as 32-bit integers in the machine's byte order. Made by :func:`pack_tokens`."""

TOKEN_BYTES: Final = struct.calcsize("i")
"""Bytes that one packed token takes."""


def pack_tokens(tokens: Sequence[int]) -> PackedTokens:
    """Packs token ids.

    Args:
        tokens: Ids, each within 32 bits, as every tokenizer gives them.
    """
    # Less than half the time of array("i", tokens).tobytes().
    return PackedTokens(struct.pack(f"{len(tokens)}i", *tokens))


def count_tokens(packed: PackedTokens) -> int:
    """Number of tokens packed."""
    return len(packed) // TOKEN_BYTES


def common_prefix(one: PackedTokens, other: PackedTokens) -> int:
    """Tokens that both begin with, in O(log n) comparisons of memory."""
    low, high = 0, min(len(one), len(other)) // TOKEN_BYTES
    if one.startswith(other) or other.startswith(one):
        return high
    # The first `low` tokens agree; the first `high` do not.
    while high - low > 1:
        middle = (low + high) // 2
        if one[low * TOKEN_BYTES : middle * TOKEN_BYTES] == other[low * TOKEN_BYTES : middle * TOKEN_BYTES]:
            low = middle
        else:
            high = middle
    return low
