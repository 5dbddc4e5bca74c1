from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import VALUES, blocks, nearest

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.nf4 import FourBit, dequantize_tensor, measure_loss, quantize_linears, quantize_tensor
from llamatelemetry.quantization.nf4.formats import BLOCK_SIZES

NAMES = ("nf4", "fp4")
SHAPES = st.lists(st.integers(1, 70), min_size=1, max_size=3).filter(lambda shape: np.prod(shape) <= 20_000)
# Of a scale, or of several: blocks of a model differ by much.
NUMBERS = st.builds(
    lambda seed, shape, spread: (
        np.random.default_rng(seed).standard_normal(shape)
        * 10.0 ** np.random.default_rng(seed + 1).uniform(-spread, spread, (*shape[:-1], 1))
    ).astype(np.float32),
    st.integers(0, 2**32 - 1),
    SHAPES,
    st.floats(0, 3),
)


def back_and_forth(numbers, four_bit, device="cpu"):
    return dequantize_tensor(quantize_tensor(torch.from_numpy(numbers), four_bit, device=device)).cpu().numpy()


@settings(deadline=None, max_examples=60)
@given(numbers=NUMBERS, name=st.sampled_from(NAMES), size=st.sampled_from(BLOCK_SIZES))
def test_each_number_becomes_the_nearest_of_sixteen_values_times_the_scale_of_its_block(numbers, name, size):
    found = back_and_forth(numbers, FourBit(name=name, block_size=size, double_quantization=False))

    assert found.shape == numbers.shape
    rows = blocks(numbers, size)
    scales = np.abs(rows).max(axis=1, keepdims=True)
    tolerance = 1e-6 * scales
    # It is one of the values, and none is nearer: of two that are as near, either.
    of_a_value = np.abs(blocks(found, size)[:, :, None] - scales[:, :, None] * VALUES[name]).min(axis=2)
    assert (of_a_value <= tolerance).all()
    error, least = np.abs(rows - blocks(found, size)), np.abs(rows - blocks(nearest(numbers, name, size), size))
    assert (error <= least + tolerance).all()


@settings(deadline=None, max_examples=40)
@given(numbers=NUMBERS, size=st.sampled_from(BLOCK_SIZES))
def test_double_quantization_changes_scales_by_at_most_half_a_step_of_eight_bits(numbers, size):
    found = back_and_forth(numbers, FourBit(block_size=size, double_quantization=True))

    rows = blocks(numbers, size)
    scales = np.abs(rows).max(axis=1)
    # The number that gave its block the scale is stored as one or minus one: it shows what became of the scale.
    largest = np.abs(rows).argmax(axis=1)
    after = np.abs(blocks(found, size)[np.arange(len(rows)), largest])
    spread = np.abs(scales - scales.mean())
    groups = np.repeat([spread[at : at + 256].max() for at in range(0, len(spread), 256)], 256)[: len(spread)]
    # The widest step of its 256 values is 0.9 / 64 of the largest.
    assert (np.abs(after - scales) <= groups * 0.9 / 128 + 1e-5 * scales.max()).all()


@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 1), (2, 1), (1, 1, 1), (1, 2, 1), (1, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("double", [False, True])
def test_numbers_that_pack_into_one_byte_come_back_in_their_shape(device, shape, double):
    numbers = torch.arange(1.0, 1.0 + np.prod(shape), device=device).reshape(shape)

    found = dequantize_tensor(quantize_tensor(numbers, FourBit(double_quantization=double)))

    assert found.shape == shape
    # The largest of a block is one of the sixteen values.
    assert float(found.max()) == pytest.approx(float(numbers.max()))


@pytest.mark.parametrize(("name", "expected"), [("nf4", 0.092), ("fp4", 0.122)])
@pytest.mark.parametrize("double", [False, True])
def test_normal_weights_lose_what_is_known_of_each_format(device, name, expected, double):
    weight = torch.from_numpy(np.random.default_rng(1).standard_normal((256, 512)).astype(np.float32)).to(device)

    stored = quantize_tensor(weight, FourBit(name=name, double_quantization=double))
    loss = measure_loss(weight, dequantize_tensor(stored), size_bytes=stored.size_bytes)

    assert loss.relative_error == pytest.approx(expected, abs=0.001)
    assert loss.snr_db == pytest.approx(-20 * np.log10(loss.relative_error), abs=1e-6)
    assert loss.max_abs_error == float((weight - dequantize_tensor(stored)).abs().max())


@pytest.mark.parametrize("size", BLOCK_SIZES)
def test_scales_are_counted(device, size):
    # So many blocks that the scales' own scales count too: one of 32 bits for each 256.
    weight = torch.zeros(256, size, device=device)
    single = quantize_tensor(weight, FourBit(block_size=size, double_quantization=False))
    double = quantize_tensor(weight, FourBit(block_size=size, double_quantization=True))

    assert single.bits_per_weight == 4 + 32 / size
    # The mean of the scales is there once.
    assert double.bits_per_weight == pytest.approx(4 + 8 / size + (32 / 256 + 32 / 256) / size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_comes_back_in_its_own_type_or_another(device, dtype):
    weight = torch.linspace(-1, 1, 128, device=device).to(dtype)
    stored = quantize_tensor(weight)

    assert dequantize_tensor(stored).dtype == dtype
    assert dequantize_tensor(stored, dtype=torch.float64).dtype == torch.float64
    assert dequantize_tensor(stored).device.type == device


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 130), (0, 4), (), (3, 1, 1, 5)])
def test_every_shape_comes_back(device, shape):
    weight = torch.ones(shape, device=device)

    stored = quantize_tensor(weight)

    assert torch.equal(dequantize_tensor(stored), weight)
    assert stored.bits_per_weight is None if weight.numel() == 0 else stored.bits_per_weight > 4


def test_a_matrix_that_is_turned_round_in_memory_is_taken_by_its_rows(device):
    weight = torch.randn(64, 96, device=device)

    assert torch.equal(
        dequantize_tensor(quantize_tensor(weight.t())), dequantize_tensor(quantize_tensor(weight.t().contiguous()))
    )


def test_what_has_no_four_bits_is_refused():
    with pytest.raises(InvalidValueError, match="not finite"):
        quantize_tensor(torch.tensor([1.0, float("inf")]))
    with pytest.raises(InvalidValueError, match="give float32, float16 or bfloat16"):
        quantize_tensor(torch.ones(4, dtype=torch.float64))
    with pytest.raises(InvalidValueError, match="block_size"):
        FourBit(block_size=48)
    with pytest.raises(InvalidValueError, match="'nf4' or 'fp4'"):
        FourBit(name="int4")


@pytest.mark.parametrize("device", ["meta", "no such device", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(InvalidValueError, match="give one that this torch can use"):
        quantize_tensor(torch.ones(4), device=device)
    with pytest.raises(InvalidValueError, match="device"):
        quantize_linears(torch.nn.Sequential(torch.nn.Linear(4, 4)), device=device)
