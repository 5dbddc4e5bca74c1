from __future__ import annotations

import numpy as np
import pytest
from gguf import GGUFReader

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.quantization import measure_importance, measure_quality, quantize, read_importance
from llamatelemetry.quantization.testing import write_small_model


def sums_of(path):
    return {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}


def test_every_weight_of_a_block_is_measured_on_every_token(tiny, words, tmp_path):
    seen = []

    found = measure_importance(
        tiny, tmp_path / "out.gguf", text=words, context=64, windows=2, threads=1, on_progress=seen.append
    )

    parts = ("attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up")
    assert sorted(found.entries) == [f"blk.0.{part}.weight" for part in parts]
    assert (found.dataset, found.chunks) == ("words.txt", 2)
    assert [(each.done, each.total) for each in seen] == [(1, 2), (2, 2)]
    tensors = sums_of(tmp_path / "out.gguf")
    # Also in the last block, where llama.cpp leaves out what nobody asks for.
    assert {float(tensors[name][0, 0]) for name in tensors if name.endswith(".counts")} == {2 * 63}
    for same in ("attn_k", "attn_v"):
        assert np.array_equal(found.entries[f"blk.0.{same}.weight"], found.entries["blk.0.attn_q.weight"])
    # It went through a norm, so its squares are one on average.
    assert found.entries["blk.0.attn_q.weight"].mean() == pytest.approx(1, abs=0.02)


def test_experts_are_measured_apart_on_what_they_are_sent(words, tmp_path):
    model = write_small_model(tmp_path / "experts.gguf", blocks=1, experts=4)

    measure_importance(model, tmp_path / "out.gguf", text=words, context=64, windows=2, threads=1)

    tensors = sums_of(tmp_path / "out.gguf")
    for part in ("gate", "up", "down"):
        assert tensors[f"blk.0.ffn_{part}_exps.weight.counts"].shape == (4, 1)
        # Each token goes to two of the four.
        assert tensors[f"blk.0.ffn_{part}_exps.weight.counts"].sum() == 2 * 2 * 63
    entering, chosen = (tensors[f"blk.0.{name}.weight.in_sum2"] for name in ("ffn_gate_inp", "ffn_gate_exps"))
    assert chosen.shape == (4, 256)
    assert chosen.sum(axis=0) == pytest.approx(2 * entering[0], rel=1e-4)
    quantize(model, tmp_path / "small.gguf", file_type="Q4_K_M", imatrix=tmp_path / "out.gguf", threads=1)


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(tiny, words, tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny.read_bytes())
    settings = {"text": words, "context": 64, "windows": 2, "threads": 1, "on_progress": pytest.fail}
    for target in (model, words):
        before = target.read_bytes()
        with pytest.raises(InvalidValueError, match="give another file than one to read"):
            measure_importance(model, target, **settings)
        assert target.read_bytes() == before
    with pytest.raises(ModelFileError, match="cannot be written"):
        measure_importance(model, tmp_path / "none" / "out.gguf", **settings)


def test_with_it_coarse_types_lose_less(parent, quantized, tmp_path):
    matrix = measure_importance(parent, tmp_path / "imatrix.gguf", context=64, windows=4, threads=1)
    settings = {"context": 64, "windows": 2, "threads": 2}

    quantize(parent, tmp_path / "with.gguf", file_type="Q2_K", imatrix=matrix, threads=1)

    without = measure_quality(quantized("Q2_K"), parent, **settings).comparison
    helped = measure_quality(tmp_path / "with.gguf", parent, **settings).comparison
    assert helped.divergence.value < 0.85 * without.divergence.value


def test_a_text_that_is_too_short_leaves_nothing(tiny, tmp_path):
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(InvalidValueError, match="give more text"):
        measure_importance(tiny, tmp_path / "out.gguf", text=tmp_path / "short.txt", context=64, threads=1)
    assert not (tmp_path / "out.gguf").exists()


def test_what_was_measured_before_is_replaced_when_it_is_whole(tiny, words, tmp_path):
    (tmp_path / "out.gguf").write_bytes(b"before")

    measure_importance(tiny, tmp_path / "out.gguf", text=words, context=64, windows=1, threads=1)

    assert read_importance(tmp_path / "out.gguf").chunks == 1
