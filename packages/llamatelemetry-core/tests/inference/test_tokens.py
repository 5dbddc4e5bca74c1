from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.inference.tokens import common_prefix, count_tokens, pack_tokens

IDS = st.lists(st.integers(-2, 2) | st.integers(-(2**31), 2**31 - 1), max_size=40)


@given(IDS)
def test_packing_keeps_every_token(tokens) -> None:
    assert count_tokens(pack_tokens(tokens)) == len(tokens)


@given(IDS, IDS, IDS)
def test_the_common_prefix_is_counted_in_whole_tokens(start, one, other) -> None:
    together = 0
    for left, right in zip(start + one, start + other, strict=False):
        if left != right:
            break
        together += 1
    assert common_prefix(pack_tokens(start + one), pack_tokens(start + other)) == together


def test_tokens_that_differ_in_one_byte_only_differ() -> None:
    assert common_prefix(pack_tokens([7, 0x0101]), pack_tokens([7, 0x0201])) == 1


def test_an_id_that_no_tokenizer_gives_is_refused() -> None:
    with pytest.raises(struct.error):
        pack_tokens([2**31])
