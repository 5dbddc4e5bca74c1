from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import ModelFileError
from llamatelemetry.transformers.config import ModelConfig, interpret_config

PATH = Path("model/config.json")
SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
}


def read(**values: Any) -> ModelConfig:
    return interpret_config(PATH, SMALL | values)


def test_the_sizes_are_those_that_are_named():
    config = read(num_key_value_heads=2, max_position_embeddings=512)
    assert (config.architecture, config.hidden_size, config.layer_count, config.head_count) == ("llama", 64, 4, 4)
    assert (config.kv_head_count, config.head_width, config.feed_forward_length) == (2, 16, 96)
    assert (config.vocabulary_size, config.context_length) == (100, 512)
    assert (config.key_elements, config.value_elements) == (32, 32)
    assert config.assumptions == ()


def test_without_heads_of_their_own_keys_have_as_many_as_queries():
    assert read().key_elements == read(num_key_value_heads=None).key_elements == 64


def test_the_width_of_a_head_need_not_follow_from_the_others():
    assert read(head_dim=24).key_elements == 4 * 24
    assert read(head_dim=None).key_elements == 64


def test_compressed_keys_and_values_are_cached_compressed():
    config = read(model_type="deepseek_v3", kv_lora_rank=12, qk_rope_head_dim=8, tie_word_embeddings=False)
    assert (config.key_elements, config.value_elements) == (12, 8)


def test_a_family_that_leaves_out_its_defaults_has_them():
    """The configuration of Gemma 3 4B, which names neither heads nor vocabulary."""
    config = interpret_config(
        PATH,
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "torch_dtype": "bfloat16",
            "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "model_type": "siglip_vision_model"},
        },
    )
    assert (config.architecture, config.layer_count, config.vocabulary_size) == ("gemma3", 34, 262_208)
    assert (config.head_count, config.key_elements, config.context_length) == (8, 4 * 256, 131_072)
    assert config.windows == ((1024,) * 5 + (None,)) * 5 + (1024,) * 4
    assert (config.dtype, config.reads_more, config.family.tied) == ("bfloat16", True, True)


@pytest.mark.parametrize(
    ("values", "windows"),
    [
        ({}, (None,) * 4),
        ({"sliding_window": 8}, (None,) * 4),
        ({"model_type": "mistral", "sliding_window": 8}, (8,) * 4),
        ({"model_type": "mistral"}, (4096,) * 4),
        ({"model_type": "mistral", "sliding_window": None}, (None,) * 4),
        ({"model_type": "mixtral"}, (None,) * 4),
        ({"model_type": "phi3", "sliding_window": 2047}, (2047,) * 4),
        ({"model_type": "phi3"}, (None,) * 4),
        ({"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 3}, (None,) * 4),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3},
            (None, None, None, 8),
        ),
        ({"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 0}, (4096,) * 4),
        ({"model_type": "qwen3", "use_sliding_window": True}, (None,) * 4),
        ({"model_type": "gemma2", "sliding_window": 8}, (8, None, 8, None)),
        ({"model_type": "gemma3_text", "sliding_window": 8, "sliding_window_pattern": 3}, (8, 8, None, 8)),
        ({"model_type": "gemma3_text", "sliding_window": 8, "sliding_window_pattern": 1}, (None,) * 4),
        (
            {"layer_types": ["full_attention", "sliding_attention"] * 2, "sliding_window": 8, "model_type": "new"},
            (None, 8, None, 8),
        ),
        ({"layer_types": ["chunked_attention"] * 4, "attention_chunk_size": 9}, (9,) * 4),
        ({"layer_types": ["sliding_attention"] * 4, "sliding_window": None}, (None,) * 4),
    ],
)
def test_each_layer_looks_back_as_far_as_its_family_says(values, windows):
    assert read(**values).windows == windows


def test_a_window_that_no_layer_is_known_to_have_is_an_assumption():
    assert read(model_type="new", sliding_window=8).assumptions == (
        "No layer is taken to have the sliding window of 8 tokens.",
    )
    assert read(model_type="new", sliding_window=8, use_sliding_window=False).assumptions == ()


def test_a_kind_of_layer_that_is_not_known_is_an_assumption():
    config = read(layer_types=["linear_attention", "full_attention"] * 2)
    assert config.windows == (None,) * 4
    assert config.assumptions == (
        "Layers of the kind linear_attention are taken to keep keys and values of every token.",
    )
    assert len(read(layer_types=["a", "b", "c", "d"]).assumptions) == 1


def test_experts_are_counted_in_every_spelling():
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        experts = read(model_type="new", **{key: 8}, num_experts_per_tok=2, moe_intermediate_size=16).experts
        assert (experts.count, experts.used, experts.width, experts.shared_width) == (8, 2, 16, 0)
    assert read(num_experts=0).experts is None
    assert read(model_type="qwen3_moe", num_local_experts=4).experts.count == 4
    assert read(model_type="mixtral").experts.count == 8


def test_shared_experts_and_dense_layers_are_told_apart():
    experts = read(model_type="new", n_routed_experts=8, moe_intermediate_size=16, n_shared_experts=2).experts
    assert (experts.shared_width, experts.dense_layers) == (32, frozenset())
    experts = read(model_type="qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[3]).experts
    assert experts.dense_layers == {0, 2, 3}
    assert read(model_type="new", num_experts=8, first_k_dense_replace=1).experts.dense_layers == {0}


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, None),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "float16"}, "float16"),
        ({"torch_dtype": "torch.float32"}, "float32"),
        ({"torch_dtype": "auto"}, None),
    ],
)
def test_the_type_of_the_weights_has_one_name(values, name):
    assert read(**values).dtype == name


@pytest.mark.parametrize(
    ("quantization", "name"),
    [
        (None, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes nf4"),
        ({"load_in_4bit": True}, "bitsandbytes fp4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, "bitsandbytes int8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq int4"),
        ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq int4"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({}, "quantized"),
    ],
)
def test_a_quantization_has_a_name(quantization, name):
    assert read(quantization_config=quantization).quantization == name


def test_ties_are_told_by_the_outer_configuration_first():
    assert read().tied is None
    assert read(tie_word_embeddings=True).tied is True
    inner = {"model_type": "llava", "text_config": SMALL | {"tie_word_embeddings": True}}
    assert interpret_config(PATH, inner).tied is True
    assert interpret_config(PATH, inner | {"tie_word_embeddings": False}).tied is False


def test_a_model_that_only_names_its_class_is_known_by_it():
    config = {key: value for key, value in SMALL.items() if key != "model_type"}
    assert interpret_config(PATH, config | {"architectures": ["NewForCausalLM"]}).architecture == "NewForCausalLM"


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_a_size_that_is_missing_is_named(key):
    config = {name: value for name, value in SMALL.items() if name != key} | {"model_type": "new"}
    with pytest.raises(ModelFileError, match=f"config.json: has no {key}, which a language model needs"):
        interpret_config(PATH, config)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hidden_size": "64"}, "hidden_size='64' is not valid: it must be a whole number from 1 to 2147483648"),
        ({"hidden_size": 64.0}, "hidden_size=64.0 is not valid"),
        ({"hidden_size": True}, "hidden_size=True is not valid"),
        ({"hidden_size": 0}, "hidden_size=0 is not valid"),
        ({"hidden_size": -1}, "hidden_size=-1 is not valid"),
        ({"hidden_size": 2**31 + 1}, "hidden_size=2147483649 is not valid"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is not valid"),
        ({"num_attention_heads": [4]}, "num_attention_heads=[4] is not valid"),
        ({"num_key_value_heads": {}}, "num_key_value_heads={} is not valid"),
        ({"kv_lora_rank": 8}, "has no qk_rope_head_dim"),
        ({"intermediate_size": []}, "intermediate_size=[] is not valid"),
        ({"intermediate_size": [96, "96"]}, "intermediate_size=[96, '96'] is not valid"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings=1 is not valid: it must be true or false"),
        ({"layer_types": "full_attention"}, "layer_types='full_attention' is not valid"),
        ({"layer_types": ["full_attention"]}, "it must have an item for each of 4 layers"),
        ({"layer_types": [1] * 4}, "layer_types=[1, 1, 1, 1] is not valid"),
        ({"layer_types": ["\x1b[31m"] * 4}, "layer_types="),
        ({"mlp_only_layers": [None], "num_experts": 8}, "mlp_only_layers=[None] is not valid"),
        ({"model_type": 5}, "model_type=5 is not valid: it must be text"),
        ({"model_type": "x" * 10_000}, "model_type='xxx"),
        ({"model_type": "a\nb"}, r"model_type='a\nb' is not valid: it must be printable text"),
        ({"text_config": [1]}, "text_config=[1] is not valid: it must be an object"),
        ({"text_config": {"num_hidden_layers": None}}, "has no text_config.num_hidden_layers"),
        ({"text_config": SMALL | {"vocab_size": "x"}}, "text_config.vocab_size='x' is not valid"),
        ({"quantization_config": "nf4"}, "quantization_config='nf4' is not valid"),
        ({"quantization_config": {"bits": 4.5}}, "quantization_config.bits=4.5 is not valid"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_key(values, says):
    with pytest.raises(ModelFileError) as caught:
        interpret_config(PATH, SMALL | {"model_type": "new"} | values)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


KEYS = sorted(
    set(SMALL)
    | {"num_key_value_heads", "head_dim", "sliding_window", "layer_types", "text_config", "quantization_config"}
    | {"tie_word_embeddings", "dtype", "num_experts", "moe_intermediate_size", "mlp_only_layers", "architectures"}
    | {"sliding_window_pattern", "max_window_layers", "use_sliding_window", "decoder_sparse_step", "kv_lora_rank"}
)
any_value = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5000) | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inside, max_size=4),
    max_leaves=6,
)
families = st.sampled_from(["llama", "mistral", "qwen2", "qwen3_moe", "gemma2", "gemma3", "phi3", "new"])


@given(families, st.dictionaries(st.sampled_from(KEYS), any_value, max_size=6))
def test_whatever_is_in_it_is_understood_or_refused(family, values):
    try:
        config = interpret_config(PATH, SMALL | {"model_type": family} | values)
    except ModelFileError as error:
        assert str(PATH) in str(error)  # noqa: PT017 - understanding it is as good
        return
    assert len(config.windows) == config.layer_count
    assert config.key_elements > 0
