from __future__ import annotations

from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.distributed.serving import CACHE_TYPES, Serving
from llamatelemetry.errors import InvalidValueError


# What llama.cpp logged for these, build b11549: n_ctx_seq, and the cells of a window of 512.
@pytest.mark.parametrize(
    ("served", "cells", "window_cells"),
    [
        ({"context_length": 512}, 512, 512),
        ({"context_length": 512, "ubatch": 64, "batch": 64}, 512, 512),
        ({"context_length": 2048}, 2048, 1024),
        ({"context_length": 2048, "slots": 4}, 2048, 1024),
        ({"context_length": 2048, "slots": 4, "unified": True}, 8192, 2560),
        ({"context_length": 8192, "ubatch": 2048}, 8192, 2560),
        ({"context_length": 333, "slots": 3}, 512, 512),
    ],
)
def test_cells_are_those_that_llama_cpp_makes(served: dict[str, Any], cells: int, window_cells: int) -> None:
    serving = Serving(**served)
    assert (serving.cells, serving.cells_of(512)) == (cells, window_cells)
    assert serving.streams == (1 if serving.unified else serving.slots)


def test_the_context_of_the_command_line_is_that_of_all_slots() -> None:
    assert Serving(context_length=4096, slots=4).context_total == 16_384


servings = st.builds(
    Serving,
    context_length=st.integers(1, 200_000),
    slots=st.integers(1, 64),
    unified=st.booleans(),
    ubatch=st.integers(1, 4096),
)


@given(servings, st.integers(1, 10_000) | st.none())
def test_a_slot_gets_what_it_was_promised_and_a_window_no_more_cells_than_everything(
    serving: Serving, window: int | None
) -> None:
    assert serving.cells * serving.streams >= serving.context_total
    assert serving.cells % 256 == 0
    assert serving.cells_of(window) <= serving.cells
    assert serving.tokens_at_once <= serving.tokens_reserved < serving.tokens_at_once + serving.slots


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"context_length": 0}, "context_length"),
        ({"slots": 0}, "slots"),
        ({"slots": 257}, "slots"),
        ({"ubatch": 0}, "ubatch"),
        ({"batch": -1}, "batch"),
        ({"logit_rows": 0}, "logit_rows"),
        ({"reserve_bytes": -1}, "reserve_bytes"),
        ({"key_type": "q3_k"}, "key_type"),
        ({"value_type": "int8"}, "value_type"),
        ({"value_type": "q8_0", "flash_attention": False}, "value_type"),
    ],
)
def test_what_llama_cpp_would_refuse_is_refused_by_name(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        Serving(**{"context_length": 4096, **values})
    assert caught.value.field == field


def test_quantized_keys_need_no_flash_attention() -> None:
    assert Serving(context_length=1, key_type="q8_0", flash_attention=False).key_type == "q8_0"


def test_logits_are_kept_for_each_slot_unless_more_are_wanted() -> None:
    assert Serving(context_length=4096, slots=3).rows == 3
    assert Serving(context_length=4096, logit_rows=512).rows == 512
    assert Serving(context_length=100, logit_rows=512).rows == 100


def test_cache_types_have_the_sizes_of_ggml() -> None:
    for name, kind in CACHE_TYPES.items():
        ggml = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
        assert (kind.block, kind.block_bytes) == ggml
