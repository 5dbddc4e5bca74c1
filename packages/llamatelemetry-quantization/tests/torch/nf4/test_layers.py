from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.nf4 import (
    FourBit,
    dequantize_tensor,
    quantize_linears,
    quantize_tensor,
    restore_linears,
)

TOKENS = torch.arange(12).reshape(2, 6)


def test_linear_layers_are_replaced_and_the_rest_stays_with_a_reason(small_model):
    made = quantize_linears(small_model)

    assert [(each.name, each.shape) for each in made.layers] == [("up", (192, 64)), ("down", (64, 192))]
    assert set(made.skipped) == {"attention.out_proj", "head"}
    assert "more than a linear layer" in made.skipped["attention.out_proj"]
    assert made.skipped["head"] == "another module has the same weight"
    assert type(small_model.up).__name__ == type(small_model.down).__name__ == "Linear4bit"
    assert small_model.head.weight is small_model.embed_tokens.weight


def test_what_is_skipped_by_name_stays(small_model):
    made = quantize_linears(small_model, skip=["^up$"])

    assert made.skipped["up"] == "skip has '^up$'"
    assert type(small_model.up) is torch.nn.Linear
    with pytest.raises(InvalidValueError, match="regular expressions"):
        quantize_linears(small_model, skip=["("])
    with pytest.raises(InvalidValueError, match="a list"):
        quantize_linears(small_model, skip="up")


def test_sizes_and_losses_are_told(small_model):
    before = sum(each.numel() * each.element_size() for each in small_model.parameters())
    weight = small_model.up.weight.detach().clone()

    made = quantize_linears(small_model, FourBit(double_quantization=False))

    expected = dequantize_tensor(quantize_tensor(weight, FourBit(double_quantization=False)))
    up = made.layers[0].loss
    assert up.relative_error == pytest.approx(float((weight - expected).norm() / weight.norm()), rel=1e-5)
    assert up.max_abs_error == float((weight - expected).abs().max())
    assert made.size_before_bytes == before
    saved = sum(4 * each.loss.elements - each.loss.size_bytes for each in made.layers)
    assert made.size_bytes == before - saved
    assert made.loss.elements == 64 * 192 * 2
    assert made.loss.bits_per_weight == pytest.approx(4.5, abs=0.01)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 80),
    blocks=st.integers(1, 3),
    bias=st.booleans(),
    name=st.sampled_from(["nf4", "fp4"]),
    double=st.booleans(),
    size=st.sampled_from([32, 64, 128]),
    training=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_layer_computes_what_its_weights_say(*, rows, blocks, bias, name, double, size, training, seed):
    torch.manual_seed(seed)
    columns = blocks * size
    model = torch.nn.Sequential(torch.nn.Linear(columns, rows, bias=bias)).train(training)
    four_bit = FourBit(name=name, double_quantization=double, block_size=size)
    weight = dequantize_tensor(quantize_tensor(model[0].weight, four_bit))
    given_to_it = torch.randn(3, columns)
    expected = torch.nn.functional.linear(given_to_it, weight, model[0].bias)

    quantize_linears(model, four_bit)

    torch.testing.assert_close(model(given_to_it), expected, rtol=2e-2, atol=2e-2)
    assert model[0].training == training


def test_a_model_answers_as_one_with_the_numbers_that_four_bits_stand_for(small_model, device):
    plain = copy.deepcopy(small_model)
    quantize_linears(small_model)
    for name in ("up", "down"):
        weight = getattr(plain, name).weight
        weight.data = dequantize_tensor(quantize_tensor(weight))

    with torch.no_grad():
        torch.testing.assert_close(small_model(TOKENS.to(device)), plain(TOKENS.to(device)), rtol=2e-2, atol=2e-2)


def test_layers_come_back_with_what_the_four_bits_kept(small_model, device):
    plain = copy.deepcopy(small_model)
    quantize_linears(small_model)
    with torch.no_grad():
        told = small_model(TOKENS.to(device))

    assert restore_linears(small_model) == ("up", "down")

    assert type(small_model.up) is torch.nn.Linear
    assert small_model.up.weight.dtype == torch.float32
    assert torch.equal(small_model.up.weight, dequantize_tensor(quantize_tensor(plain.up.weight)))
    with torch.no_grad():
        torch.testing.assert_close(small_model(TOKENS.to(device)), told, rtol=2e-2, atol=2e-2)
    assert restore_linears(small_model) == ()


def test_a_layer_computes_in_the_type_that_it_is_told(small_model, device):
    quantize_linears(small_model, compute_dtype=torch.bfloat16)

    assert small_model.up.compute_dtype == torch.bfloat16
    with torch.no_grad():
        assert small_model.up(torch.ones(1, 64, device=device)).dtype == torch.float32
    assert restore_linears(small_model, dtype=torch.bfloat16)
    assert small_model.up.weight.dtype == torch.bfloat16


def test_a_layer_in_two_places_stays_one(device):
    shared = torch.nn.Linear(64, 64)
    model = torch.nn.ModuleDict({"a": shared, "b": torch.nn.Sequential(shared)}).to(device)

    assert [each.name for each in quantize_linears(model).layers] == ["a"]

    assert model["a"] is model["b"][0]
    assert type(model["a"]).__name__ == "Linear4bit"


def test_a_model_with_numbers_that_are_not_finite_stays_as_it_is(small_model):
    with torch.no_grad():
        small_model.down.weight[3, 5] = float("nan")

    with pytest.raises(InvalidValueError, match=r"down\.weight"):
        quantize_linears(small_model)

    assert type(small_model.up) is torch.nn.Linear


def test_what_is_quantized_is_not_quantized_again(small_model):
    quantize_linears(small_model)
    assert quantize_linears(small_model).layers == ()


@pytest.mark.parametrize(("columns", "size"), [(96, 64), (48, 32), (33, 32), (8, 32)])
def test_a_layer_whose_rows_are_no_whole_blocks_stays(columns, size):
    model = torch.nn.Sequential(torch.nn.Linear(columns, 32))

    made = quantize_linears(model, FourBit(block_size=size))

    assert made.skipped == {"0": f"its rows of {columns} numbers are no whole blocks of {size}"}
    assert type(model[0]) is torch.nn.Linear


def test_answering_changes_nothing_of_what_is_stored(small_model, device):
    quantize_linears(small_model)
    before = {name: each.clone() for name, each in small_model.state_dict().items()}

    with torch.no_grad():
        small_model(TOKENS.to(device))

    after = small_model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], each) for name, each in before.items())


def test_a_model_that_is_one_layer_or_not_loaded_is_told_so():
    assert quantize_linears(torch.nn.Linear(8, 8)).skipped[""].startswith("it is the model itself")
    empty = torch.nn.Sequential(torch.nn.Linear(8, 8, device="meta"), torch.nn.Linear(8, 8, dtype=torch.float64))
    assert list(quantize_linears(empty).skipped.values()) == [
        "its weight was not loaded",
        "its weight is torch.float64",
    ]


FIVE_BLOCKS = ("lm_head", r"layers\.([5-9]|\d\d)\.")
"""What is skipped, so that of thirty blocks the first five are quantized, which shows as much and takes seconds."""


def test_smollm2_drifts_little_and_less_in_nf4_than_in_fp4(smollm):
    _, model, tokenizer = smollm
    tokens = tokenizer("The capital of France is Paris, and the capital of Italy is Rome.", return_tensors="pt")
    with torch.no_grad():
        before = torch.log_softmax(model(**tokens).logits[0], -1)
    drift = {}
    for name in ("nf4", "fp4"):
        changed = copy.deepcopy(model)
        made = quantize_linears(changed, FourBit(name=name), skip=FIVE_BLOCKS)
        with torch.no_grad():
            after = torch.log_softmax(changed(**tokens).logits[0], -1)
        drift[name] = float((before.exp() * (before - after)).sum(-1).mean())
        assert len(made.layers) == 5 * 7
        assert made.loss.bits_per_weight == pytest.approx(4.127, abs=0.001)

    print(f"\nmean KL divergence of SmolLM2's next token, in nats: {drift}")  # noqa: T201
    # Every weight of the file was in four bits before, of another kind.
    assert 0 < drift["nf4"] < drift["fp4"] < 1
