from __future__ import annotations

import pytest

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization import quantize
from llamatelemetry.quantization.dynamic.budget import Budget
from llamatelemetry.quantization.dynamic.groups import DEFAULT_TYPES, groups_of, overrides_for
from llamatelemetry.quantization.dynamic.sizes import mix_size, most_bytes
from llamatelemetry.quantization.file_types import FILE_TYPES
from llamatelemetry.quantization.ggml import load_ggml
from llamatelemetry.quantization.gguf_reading import open_gguf, read_layout
from llamatelemetry.quantization.output_plan import model_of


@pytest.fixture
def read():
    """A model's layout, what rules ask of it, and the types."""

    def of(path):
        types = load_ggml()
        with open_gguf(path) as file:
            layout = read_layout(path, file, types.types_by_number)
        return layout, model_of(layout), types.types

    return of


def test_tensors_of_a_role_and_a_band_are_together_and_norms_are_in_none(small, read):
    groups = groups_of(*read(small), wanted=DEFAULT_TYPES, bands=2)

    names = {group.name: group for group in groups}
    assert len(groups) == 2 + 7 * 2
    assert names["down, band 1"].tensors == tuple(f"blk.{block}.ffn_down.weight" for block in range(4))
    assert names["down, band 2"].tensors == tuple(f"blk.{block}.ffn_down.weight" for block in range(4, 8))
    assert [option.type for option in names["output"].options] == list(DEFAULT_TYPES)
    held = [name for group in groups for name in group.tensors]
    assert len(held) == len(set(held))
    assert not [name for name in held if "norm" in name]


def test_more_bands_than_blocks_are_a_band_a_block(tiny, read):
    assert len(groups_of(*read(tiny), wanted=["Q4_K"], bands=9)) == 1 + 7


def test_what_does_not_fit_is_counted_as_what_takes_its_place(tmp_path, narrow, read):
    path = narrow(tmp_path / "in.gguf", "llama", {"attn_q": (2, 288)}, blocks=1)

    groups = {group.name: group for group in groups_of(*read(path), wanted=DEFAULT_TYPES, bands=1)}

    # Q2_K and Q3_K both become Q4_0, and Q6_K is as good as Q8_0 then.
    query = groups["query, band 1"]
    assert [option.given[0] for option in query.options] == ["Q4_0", "Q5_0", "Q5_1", "Q8_0"]
    assert [option.size_bytes for option in query.options] == [2 * 9 * size for size in (18, 22, 24, 34)]


def test_experts_and_what_all_tokens_share_are_apart(tmp_path, read):
    from llamatelemetry.quantization.testing import write_small_model

    path = write_small_model(tmp_path / "experts.gguf", blocks=1, experts=2)
    names = {group.name for group in groups_of(*read(path), wanted=["Q4_K"], bands=1)}

    assert {"ffn_up_exps, band 1", "ffn_down_exps, band 1", "value, band 1"} <= names


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"wanted": ["Q9"]}, "give some of"),
        ({"wanted": ["F16"]}, "give some of"),
        ({"wanted": []}, "give some, for example"),
        ({"bands": 0}, "1 to 256"),
    ],
)
def test_what_is_no_type_or_no_number_is_refused(tiny, read, given, match):
    with pytest.raises(InvalidValueError, match=match):
        groups_of(*read(tiny), **{"wanted": ["Q4_K"], "bands": 1} | given)


def test_sizes_are_known_before_a_weight_is_touched(tmp_path, small, read):
    for name in ("Q2_K", "Q4_K_M", "Q6_K"):
        made = quantize(small, tmp_path / "made.gguf", file_type=name, threads=1)
        assert mix_size(*read(small), FILE_TYPES[name]) == made.size_bytes
        assert most_bytes(Budget(like=name), *read(small)) == made.size_bytes
        assert most_bytes(Budget(bits_per_weight=made.bits_per_weight), *read(small)) == pytest.approx(made.size_bytes)


def test_patterns_find_the_names_that_are_meant_and_no_others(tmp_path, tiny):
    types = {"blk.0.attn_q.weight": "Q6_K", "blk.0.attn_k.weight": "Q6_K", "token_embd.weight": "Q8_0"}
    made = quantize(tiny, tmp_path / "made.gguf", file_type="Q4_0", overrides=overrides_for(types), threads=1)

    assert made.tensor_types == {"Q4_0": 5, "F32": 3, "Q6_K": 2, "Q8_0": 1}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"like": "Q4_K_M", "bits_per_weight": 4},
        {"bits_per_weight": 0},
        {"max_divergence": float("nan")},
        {"like": "Q9"},
    ],
)
def test_a_budget_is_one_thing_that_can_be(given):
    with pytest.raises(InvalidValueError):
        Budget(**given)
