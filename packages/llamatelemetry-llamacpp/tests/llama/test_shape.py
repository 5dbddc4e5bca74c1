"""Shapes of GGUF models: a real one, and headers of every kind of architecture, written for the test."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llamatelemetry.distributed.shape import ModelShape
from llamatelemetry.errors import ModelFileError
from llamatelemetry.llama.gguf import read_gguf
from llamatelemetry.llama.shape import read_shape
from llamatelemetry.plugins import load_plugins

SIZES = {"block_count": 6, "embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2}
MAMBA = {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.group_count": 2}
MAMBA_STATE = (3 * (128 + 2 * 2 * 16) + 16 * 128) * 4

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a GGUF file: an architecture, its keys, and tensors by name."""

    def written(
        architecture: str,
        keys: dict[str, Any] | None = None,
        tensors: dict[str, tuple[int, ...]] | None = None,
        name: str = "model.gguf",
        **whole: Any,
    ) -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, architecture)
        for key, value in (SIZES if keys is None else keys).items():
            if isinstance(value, list):
                writer.add_array(f"{architecture}.{key}", value)
            else:
                writer.add_uint32(f"{architecture}.{key}", value)
        for key, value in whole.items():
            writer.add_uint16(key.replace("_", ".", 1), value)
        for tensor, shape in (tensors or {"token_embd.weight": (100, 64)}).items():
            writer.add_tensor(tensor, np.zeros(shape, np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return written


def shape_of(path: Path) -> ModelShape:
    shape = read_shape(path)
    assert shape is not None
    return shape


def windows(shape: ModelShape) -> list[int | None]:
    return [layer.window for layer in shape.layers]


def kept(shape: ModelShape) -> list[tuple[int, int]]:
    return [(layer.key_elements, layer.value_elements) for layer in shape.layers]


def test_a_real_model_has_the_sizes_that_llama_cpp_prints(model_path: Path) -> None:
    shape = shape_of(model_path)
    assert (shape.name, shape.format, shape.architecture) == ("Smollm2 135M 8k Lc100K Mix1 Ep2", "gguf", "llama")
    assert (shape.quantization, shape.parameters, shape.context_length) == ("Q4_1", 134_515_008, 8192)
    assert len(shape.layers) == 30
    assert set(kept(shape)) == {(192, 192)}
    assert set(windows(shape)) == {None}
    assert (shape.embedding_length, shape.head_count, shape.feed_forward_length) == (576, 9, 1536)
    assert (shape.attention_length, shape.vocabulary_size, shape.experts_used) == (576, 49_152, 1)
    assert shape.tied_output
    # llama.cpp: "CPU_Mapped model buffer size = 92.10 MiB", of which 28.69 MiB stay on the CPU with all layers on GPUs.
    assert f"{shape.weights_bytes / 2**20:.2f}" == "92.10"
    assert f"{shape.input_bytes / 2**20:.2f}" == "28.69"
    assert shape.assumptions == ()


def test_the_reader_is_found_by_the_plugins_registry(model_path: Path) -> None:
    assert load_plugins().read_model_shape(model_path) == read_shape(model_path)


def test_what_the_cache_takes_of_a_token_is_known_in_one_place(model_path: Path, write: Write) -> None:
    for path in (model_path, write("gemma3", {**SIZES, "attention.sliding_window": 32}), write("mamba2")):
        shape, model = shape_of(path), read_gguf(path)
        assert sum(keys + values for keys, values in kept(shape)) * 2 == (model.kv_bytes_per_token or 0)


def test_every_weight_is_before_in_or_after_the_layers(write: Write) -> None:
    tensors = {
        "token_embd.weight": (100, 64),
        "token_embd_norm.weight": (64,),
        "position_embd.weight": (10, 64),
        "rope_freqs.weight": (16,),
        "blk.0.attn_q.weight": (64, 64),
        "blk.5.ffn_up.weight": (32, 64),
        "output_norm.weight": (64,),
        "output.weight": (120, 64),
    }
    shape = shape_of(write("llama", tensors=tensors))
    assert shape.input_bytes == (100 + 10) * 64 * 2
    assert [layer.weights_bytes for layer in shape.layers] == [(64 + 16 + 64 * 64) * 2, 0, 0, 0, 0, 32 * 64 * 2]
    assert shape.output_bytes == (64 + 120 * 64) * 2
    assert shape.weights_bytes == sum(np.prod(size) * 2 for size in tensors.values())
    assert not shape.tied_output
    assert shape.vocabulary_size == 120
    assert shape.parameters == sum(int(np.prod(size)) for size in tensors.values())


@pytest.mark.parametrize(
    ("architecture", "keys", "expected"),
    [
        ("llama", {}, [None] * 6),
        ("gemma2", {}, [4096, None] * 3),
        ("gemma2", {"attention.sliding_window": 1000}, [1000, None] * 3),
        ("gemma3", {}, [None] * 6),
        ("gemma3", {"attention.sliding_window": 512}, [512] * 5 + [None]),
        (
            "gemma3",
            {"attention.sliding_window": 512, "attention.sliding_window_pattern": 3},
            [512, 512, None, 512, 512, None],
        ),
        ("gpt-oss", {"attention.sliding_window": 128}, [128, None] * 3),
        ("cohere2", {"attention.sliding_window": 4096}, [4096, 4096, 4096, None, 4096, 4096]),
        ("smallthinker", {"attention.sliding_window": 64}, [None, 4096, 4096, 4096, None, 4096]),
        ("llama4", {}, [8192, 8192, 8192, None, 8192, 8192]),
        ("llama4", {"attention.sliding_window": 0}, [None] * 6),
        ("exaone4", {"attention.sliding_window": 4096}, [None] * 6),
        ("phi3", {"attention.sliding_window": 2047}, [None] * 6),
        (
            "gemma4",
            {
                "attention.sliding_window": 512,
                "attention.sliding_window_pattern": [True, False, True, True, False, True],
            },
            [512, None, 512, 512, None, 512],
        ),
        ("brand-new", {"attention.sliding_window": 512}, [None] * 6),
    ],
)
def test_sliding_windows_are_where_llama_cpp_has_them(
    write: Write, architecture: str, keys: dict[str, Any], expected: list[int | None]
) -> None:
    assert windows(shape_of(write(architecture, {**SIZES, **keys}))) == expected


def test_a_window_whose_layers_are_not_known_is_counted_as_full_attention_and_said_to_be(write: Write) -> None:
    [said] = shape_of(write("brand-new", {**SIZES, "attention.sliding_window": 512})).assumptions
    assert "sliding window of 512 tokens" in said
    assert "at least as much memory" in said
    for architecture in ("gemma3", "phi3"):
        assert shape_of(write(architecture, {**SIZES, "attention.sliding_window": 512})).assumptions == ()


def test_keys_and_values_have_their_own_sizes_and_others_in_windows(write: Write) -> None:
    sizes = {
        **SIZES,
        "attention.key_length": 32,
        "attention.value_length": 24,
        "attention.key_length_swa": 8,
        "attention.value_length_swa": 4,
        "attention.sliding_window": 128,
    }
    assert kept(shape_of(write("gemma2", sizes))) == [(2 * 8, 2 * 4), (2 * 32, 2 * 24)] * 3


def test_compressed_attention_keeps_one_latent_key_and_no_value(write: Write) -> None:
    sizes = {
        **SIZES,
        "attention.head_count_kv": 1,
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
    }
    assert set(kept(shape_of(write("deepseek2", sizes)))) == {(576, 0)}


def test_layers_that_use_the_cache_of_others_keep_nothing(write: Write) -> None:
    shared = {**SIZES, "attention.sliding_window": 512, "attention.sliding_window_pattern": [True] * 6}
    assert kept(shape_of(write("gemma4", {**shared, "attention.shared_kv_layers": 4}))) == [(32, 32)] * 2 + [(0, 0)] * 4
    many = {**SIZES, "block_count": 30, "attention.sliding_window": 512}
    assert kept(shape_of(write("gemma3n", many))) == [(32, 32)] * 20 + [(0, 0)] * 10


def test_layers_that_only_guess_ahead_keep_nothing(write: Write) -> None:
    assert kept(shape_of(write("glm4moe", {**SIZES, "nextn_predict_layers": 1}))) == [(32, 32)] * 5 + [(0, 0)]


def test_recurrent_models_keep_a_state_and_no_tokens(write: Write) -> None:
    sizes = {"block_count": 6, "embedding_length": 64, **MAMBA}
    shape = shape_of(write("mamba2", sizes))
    assert kept(shape) == [(0, 0)] * 6
    assert [layer.state_bytes for layer in shape.layers] == [MAMBA_STATE] * 6
    rwkv = shape_of(write("rwkv7", {"block_count": 6, "embedding_length": 64, "wkv.head_size": 16}))
    assert [layer.state_bytes for layer in rwkv.layers] == [(2 * 64 + 64 * 16) * 4] * 6
    assert rwkv.tied_output


def test_hybrid_models_have_states_where_they_have_no_heads(write: Write) -> None:
    heads = [0, 0, 2, 0, 0, 2]
    shape = shape_of(write("jamba", {**SIZES, **MAMBA, "attention.head_count_kv": heads}))
    assert kept(shape) == [(16 * count, 16 * count) for count in heads]
    assert [layer.state_bytes for layer in shape.layers] == [0 if count else MAMBA_STATE for count in heads]
    conv = shape_of(write("lfm2", {**SIZES, "shortconv.l_cache": 3, "attention.head_count_kv": heads}))
    assert [layer.state_bytes for layer in conv.layers] == [0 if count else 64 * 2 * 4 for count in heads]
    every_fourth = shape_of(write("qwen35", {**SIZES, **MAMBA}))
    assert [bool(layer.state_bytes) for layer in every_fourth.layers] == [True, True, True, False, True, True]
    assert [bool(layer.key_elements) for layer in every_fourth.layers] == [False, False, False, True, False, False]
    both = shape_of(write("falcon-h1", {**SIZES, **MAMBA}))
    assert all(layer.state_bytes and layer.key_elements for layer in both.layers)
    kinds = {"attention.head_count_kv": [0, 2, 0] * 2, "feed_forward_length": [0, 0, 128] * 2}
    mixed = shape_of(write("nemotron_h", {**SIZES, **MAMBA, **kinds}))
    assert [bool(layer.state_bytes) for layer in mixed.layers] == [True, False, False] * 2


def test_models_that_generate_nothing_keep_nothing(write: Write) -> None:
    shape = shape_of(write("nomic-bert"))
    assert kept(shape) == [(0, 0)] * 6
    assert not shape.tied_output


def test_of_a_mixture_of_experts_counts_what_one_token_uses(write: Write) -> None:
    sizes = {
        **SIZES,
        "feed_forward_length": 100,
        "expert_count": 64,
        "expert_used_count": 8,
        "expert_feed_forward_length": 32,
        "expert_shared_count": 2,
    }
    shape = shape_of(write("deepseek", sizes))
    assert (shape.experts_used, shape.feed_forward_length) == (8, 8 * 32 + 2 * 32)
    dense = shape_of(write("llama", {**SIZES, "feed_forward_length": [100, 200, 100, 100, 100, 100]}))
    assert (dense.experts_used, dense.feed_forward_length) == (1, 200)


def test_a_split_model_is_the_sum_of_its_parts(write: Write, tmp_path: Path) -> None:
    first = write("llama", name="big-00001-of-00002.gguf", split_count=2)
    with pytest.raises(ModelFileError, match=r"big-00002-of-00002.gguf: does not exist"):
        read_shape(first)
    write("llama", {}, {"blk.5.attn_q.weight": (64, 64), "output.weight": (100, 64)}, name="big-00002-of-00002.gguf")
    shape = shape_of(first)
    assert shape.weights_bytes == (100 * 64 + 64 * 64 + 100 * 64) * 2
    assert shape.layers[5].weights_bytes == 64 * 64 * 2
    assert not shape.tied_output
    second = write("llama", name="other-00002-of-00002.gguf", split_count=2)
    with pytest.raises(ModelFileError, match=r"give the first, whose name ends like NAME-00001-of-00002.gguf"):
        read_shape(second)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"block_count": 6},
        {"block_count": 6, "embedding_length": 64},
        {**SIZES, "block_count": 513},
        {**SIZES, "block_count": 2**31},
    ],
)
def test_a_file_that_does_not_say_what_llama_cpp_needs_is_refused(write: Write, keys: dict[str, int]) -> None:
    path = write("llama", keys)
    with pytest.raises(ModelFileError, match=r"does not say what llama.cpp needs"):
        read_shape(path)
    assert read_gguf(path).kv_bytes_per_token is None


def test_weights_of_an_unknown_type_are_not_guessed(write: Write) -> None:
    path = write("llama")
    data = path.read_bytes()
    name = b"token_embd.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8
    path.write_bytes(data[:at] + struct.pack("<I", 999) + data[at + 4 :])
    with pytest.raises(ModelFileError, match=r"not known here .type 999."):
        read_shape(path)


def test_what_is_no_gguf_file_is_left_to_others(tmp_path: Path, write: Write) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert read_shape(tmp_path) is None
    assert read_shape(tmp_path / "config.json") is None
    assert read_shape(tmp_path / "nothing") is None
    renamed = write("llama").rename(tmp_path / "renamed.bin")
    assert read_shape(renamed) is not None
    (tmp_path / "page.gguf").write_text("<!DOCTYPE html>")
    with pytest.raises(ModelFileError, match="looks like a web page"):
        read_shape(tmp_path / "page.gguf")
