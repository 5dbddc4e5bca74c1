from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import ModelFileError
from llamatelemetry.transformers.shape import read_shape

LAYER = 2 * 64 * (64 + 32) + 3 * 64 * 96 + 2 * 64
"""Weights of one layer of the small Llama."""


def test_every_byte_of_the_files_has_its_place(checkpoint):
    checkpoint.config()
    checkpoint.weights(checkpoint.llama())
    shape = checkpoint.shape()
    assert [layer.weights_bytes for layer in shape.layers] == [2 * LAYER] * 3
    assert (shape.input_bytes, shape.output_bytes) == (2 * 6400, 2 * (6400 + 64))
    assert shape.weights_bytes == checkpoint.bytes_of(checkpoint.llama())
    assert shape.parameters == shape.weights_bytes // 2
    assert (shape.quantization, shape.weights_estimated, shape.assumptions) == ("bfloat16", False, ())


def test_what_the_configuration_says_is_in_the_shape(checkpoint):
    checkpoint.config(head_dim=24)
    checkpoint.weights(checkpoint.llama(head_dim=24))
    shape = checkpoint.shape()
    assert (shape.name, shape.path, shape.format) == ("small-model", checkpoint.path, "huggingface")
    assert (shape.architecture, shape.embedding_length, shape.vocabulary_size) == ("llama", 64, 100)
    assert (shape.head_count, shape.attention_length, shape.context_length) == (4, 96, 512)
    assert (shape.feed_forward_length, shape.experts_used, shape.tied_output) == (96, 1, False)
    assert {(layer.key_elements, layer.value_elements) for layer in shape.layers} == {(48, 48)}
    assert read_shape(checkpoint.path / "config.json").layers == shape.layers


def test_several_files_are_as_good_as_one(checkpoint):
    tensors = checkpoint.llama()
    names = sorted(tensors)
    checkpoint.config()
    checkpoint.shards(*({name: tensors[name] for name in names[part::3]} for part in range(3)))
    parts = checkpoint.shape()
    (checkpoint.path / "model.safetensors.index.json").unlink()
    checkpoint.weights(tensors)
    assert parts == checkpoint.shape()


def test_a_configuration_alone_gives_the_same_and_says_that_it_is_worked_out(checkpoint):
    checkpoint.config()
    estimated = checkpoint.shape()
    checkpoint.weights(checkpoint.llama())
    measured = checkpoint.shape()
    assert (estimated.weights_estimated, measured.weights_estimated) == (True, False)
    assert estimated.layers == measured.layers
    assert (estimated.weights_bytes, estimated.parameters) == (measured.weights_bytes, measured.parameters)


def test_a_tied_model_has_its_embeddings_once_whatever_its_files_hold(checkpoint):
    tied = {"tie_word_embeddings": True}
    checkpoint.config(**tied)
    checkpoint.weights(checkpoint.llama(**tied))
    once = checkpoint.shape()
    checkpoint.weights(checkpoint.llama())
    assert checkpoint.shape() == once
    assert (once.tied_output, once.output_bytes) == (True, 2 * 64)


@pytest.mark.parametrize(
    ("family", "told", "held", "tied"),
    [
        ("llama", None, True, False),
        ("llama", None, False, True),
        ("llama", False, False, False),
        ("gemma", None, True, True),
        ("gemma", None, False, True),
        ("gemma", False, True, False),
    ],
)
def test_whether_it_is_tied_follows_from_what_is_told_and_what_is_held(checkpoint, family, told, held, tied):
    checkpoint.config(model_type=family, tie_word_embeddings=told, head_dim=16)
    checkpoint.weights(checkpoint.llama(tie_word_embeddings=not held))
    assert checkpoint.shape().tied_output is tied


def test_layers_are_counted_one_by_one(checkpoint):
    tensors = checkpoint.llama()
    tensors["model.layers.1.self_attn.q_proj.bias"] = ("F32", (10,))
    checkpoint.config()
    checkpoint.weights(tensors)
    assert [layer.weights_bytes for layer in checkpoint.shape().layers] == [2 * LAYER, 2 * LAYER + 40, 2 * LAYER]


def test_layers_of_experts_have_what_their_files_hold(checkpoint):
    tensors = {name: tensor for name, tensor in checkpoint.llama().items() if ".mlp." not in name}
    for layer in range(3):
        for expert in range(8):
            for matrix in ("gate_proj", "up_proj", "down_proj"):
                tensors[f"model.layers.{layer}.mlp.experts.{expert}.{matrix}.weight"] = ("BF16", (64, 32))
        tensors[f"model.layers.{layer}.mlp.gate.weight"] = ("BF16", (8, 64))
    checkpoint.config(model_type="qwen3_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32)
    checkpoint.weights(tensors)
    shape = checkpoint.shape()
    assert shape.layers[0].weights_bytes == 2 * (LAYER - 3 * 64 * 96 + 8 * (3 * 64 * 32 + 64))
    assert (shape.feed_forward_length, shape.experts_used) == (2 * 32, 2)
    checkpoint.config(model_type="qwen3_moe", num_experts=8, num_experts_per_tok=2, mlp_only_layers=[0])
    assert checkpoint.shape().feed_forward_length == 2 * 768


@pytest.mark.parametrize(
    "stem", ["model.", "", "transformer.", "model.language_model.", "language_model.model.", "model.decoder."]
)
def test_layers_are_found_wherever_their_names_put_them(checkpoint, stem):
    checkpoint.config()
    checkpoint.weights(checkpoint.llama(stem=stem))
    shape = checkpoint.shape()
    assert shape.layers[0].weights_bytes == 2 * LAYER
    assert (shape.input_bytes, shape.output_bytes) == (2 * 6400, 2 * (6400 + 64))


@pytest.mark.parametrize("count", [2, 3, 9])
def test_a_vision_tower_is_no_layer_however_large(checkpoint, count):
    checkpoint.config_of({"model_type": "llava", "text_config": checkpoint.small})
    tower = {f"vision_tower.encoder.layers.{number}.mlp.weight": ("BF16", (500, 500)) for number in range(count)}
    tower["vision_tower.norm.weight"] = ("BF16", (500,))
    checkpoint.weights(checkpoint.llama(stem="language_model.model.") | tower)
    shape = checkpoint.shape()
    assert [layer.weights_bytes for layer in shape.layers] == [2 * LAYER] * 3
    assert shape.input_bytes == 2 * 6400 + 2 * (count * 250_000 + 500)
    assert (shape.architecture, shape.output_bytes) == ("llava", 2 * (6400 + 64))


def test_layers_that_only_guess_further_tokens_come_last(checkpoint):
    tensors = checkpoint.llama()
    tensors["model.layers.3.eh_proj.weight"] = ("BF16", (64, 128))
    checkpoint.weights(tensors)
    checkpoint.config(num_nextn_predict_layers=1)
    assert checkpoint.shape().output_bytes == 2 * (6400 + 64 + 64 * 128)
    checkpoint.config()
    with pytest.raises(ModelFileError, match=r"has 'model\.layers\.3', and config\.json says num_hidden_layers=3"):
        checkpoint.shape()


def test_a_layer_that_is_missing_is_named(checkpoint):
    checkpoint.config(num_hidden_layers=5)
    checkpoint.weights(checkpoint.llama())
    with pytest.raises(ModelFileError, match=r"lacks 'model\.layers\.3', and .* num_hidden_layers=5") as caught:
        checkpoint.shape()
    assert caught.value.path == str(checkpoint.path / "model.safetensors")


def test_weights_without_layers_are_refused(checkpoint):
    checkpoint.config()
    checkpoint.weights({"encoder.weight": ("F32", (2, 2))})
    with pytest.raises(ModelFileError, match="has no tensor that belongs to a layer"):
        checkpoint.shape()


def test_packed_weights_are_counted_as_they_are_packed(checkpoint):
    """As bitsandbytes stores NF4: two numbers a byte, and one scale for each 64 of them."""
    tensors = {}
    for name, (dtype, shape) in checkpoint.llama().items():
        if "proj" not in name:
            tensors[name] = (dtype, shape)
            continue
        elements = shape[0] * shape[1]
        tensors[name] = ("U8", (elements // 2, 1))
        tensors[f"{name}.absmax"] = ("F32", (elements // 64,))
        tensors[f"{name}.quant_map"] = ("F32", (16,))
        tensors[f"{name}.quant_state.bitsandbytes__nf4"] = ("U8", (80,))
    checkpoint.config(
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    )
    checkpoint.weights(tensors)
    shape = checkpoint.shape()
    matrices = LAYER - 128
    assert shape.layers[0].weights_bytes == matrices // 2 + 4 * (matrices // 64) + 7 * (64 + 80) + 2 * 128
    assert (shape.quantization, shape.parameters) == ("bitsandbytes nf4", None)
    assert shape.weights_bytes == checkpoint.bytes_of(tensors)


def test_the_type_that_most_weights_have_is_the_models(checkpoint):
    tensors = checkpoint.llama("F16") | {"model.norm.weight": ("F32", (64,))}
    checkpoint.config(torch_dtype="float32")
    checkpoint.weights(tensors)
    assert checkpoint.shape().quantization == "float16"


def test_sliding_windows_are_those_of_their_layers(checkpoint):
    checkpoint.config(model_type="gemma2", sliding_window=8, head_dim=16)
    checkpoint.weights(checkpoint.llama())
    assert [layer.window for layer in checkpoint.shape().layers] == [8, None, 8]


def test_what_is_no_checkpoint_is_none(tmp_path):
    assert read_shape(tmp_path) is None
    assert read_shape(tmp_path / "nowhere") is None


parts_of_names = st.sampled_from(["model", "lm_head", "layers", "h", "0", "1", "2", "norm", "wte", "x"]) | st.text()
names = st.lists(parts_of_names, min_size=1, max_size=6).map(".".join).filter(lambda name: name != "__metadata__")
small_tensors = st.tuples(st.sampled_from(["U8", "F32"]), st.lists(st.integers(0, 3), max_size=2).map(tuple))


@given(st.dictionaries(names, small_tensors, max_size=8), st.booleans(), st.integers(0, 4))
def test_sums_are_those_of_the_files_whatever_names_they_hold(checkpoint_at, more, whole, layers):
    checkpoint = checkpoint_at()
    tensors = {**checkpoint.llama(), **more} if whole else more
    checkpoint.config(num_hidden_layers=3 if whole else layers)
    checkpoint.weights(tensors)
    try:
        shape = checkpoint.shape()
    except ModelFileError as error:
        assert "layer" in str(error)  # noqa: PT017 - reading it is as good
        return
    assert shape.weights_bytes == checkpoint.bytes_of(tensors)


def test_an_output_matrix_of_a_layer_belongs_to_that_layer(checkpoint):
    checkpoint.config(num_hidden_layers=1, tie_word_embeddings=True)
    checkpoint.weights({"lm_head.layers.0.weight": ("U8", (7,))})
    assert checkpoint.shape().layers[0].weights_bytes == 7


def test_many_tensors_in_many_files_are_read_in_little_memory(checkpoint):
    names = [f"model.layers.{layer}.mlp.experts.{expert}.w" for layer in range(20) for expert in range(1000)]
    checkpoint.config(num_hidden_layers=20)
    checkpoint.shards(*(dict.fromkeys(names[part::8], ("U8", (1, 1))) for part in range(8)))
    tracemalloc.start()
    shape = checkpoint.shape()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shape.weights_bytes == 20_000
    assert peak < 32 * 2**20


def test_tensors_whose_names_have_nothing_in_common_take_no_longer(checkpoint):
    checkpoint.config(num_hidden_layers=1)
    before = time.thread_time()
    for count in (5_000, 20_000):
        checkpoint.weights({f"a{number}.layers.0.w": ("U8", (1, 1)) for number in range(count)})
        checkpoint.shape()
    assert time.thread_time() - before < 10  # 0.5 s; the square of their number would take minutes


def test_reading_needs_neither_torch_nor_transformers_nor_numpy(checkpoint):
    checkpoint.config()
    checkpoint.weights(checkpoint.llama())
    code = (
        "import sys; before = set(sys.modules); from pathlib import Path;"
        "from llamatelemetry.transformers import read_shape; assert read_shape(Path(sys.argv[1])).layers;"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    command = [sys.executable, "-c", code, checkpoint.path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['llamatelemetry']"
