"""Numbers of parameters are those of the published models; transformers makes the same of these sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.errors import ModelFileError
from llamatelemetry.transformers.config import interpret_config
from llamatelemetry.transformers.estimate import estimate_weights
from llamatelemetry.transformers.weights import Weights

PATH = Path("model/config.json")


KEYS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size"),
)


def sizes(family: str, *numbers: int, **more: Any) -> dict[str, Any]:
    return {"model_type": family, **dict(zip(KEYS, numbers, strict=True)), **more}


def estimated(config: dict[str, Any]) -> Weights:
    return estimate_weights(PATH, interpret_config(PATH, config))


TIED = {"tie_word_embeddings": True}
MODELS = {
    "SmolLM2 135M": (sizes("llama", 576, 30, 9, 3, 1536, 49_152, **TIED), 134_515_008),
    "SmolLM3 3B": (sizes("smollm3", 2048, 36, 16, 4, 11_008, 128_256), 3_075_098_624),
    "Llama 3.2 1B": (sizes("llama", 2048, 16, 32, 8, 8192, 128_256, **TIED), 1_235_814_400),
    "Llama 3.1 8B": (sizes("llama", 4096, 32, 32, 8, 14_336, 128_256), 8_030_261_248),
    "Mistral 7B": (sizes("mistral", 4096, 32, 32, 8, 14_336, 32_000), 7_241_732_096),
    "Mixtral 8x7B": (sizes("mixtral", 4096, 32, 32, 8, 14_336, 32_000, num_local_experts=8), 46_702_792_704),
    "Qwen 2.5 0.5B": (sizes("qwen2", 896, 24, 14, 2, 4864, 151_936, **TIED), 494_032_768),
    "Qwen 3 0.6B": (sizes("qwen3", 1024, 28, 16, 8, 3072, 151_936, **TIED), 596_049_920),
    "Qwen 1.5 MoE A2.7B": (
        sizes("qwen2_moe", 2048, 24, 16, 16, 5632, 151_936, num_experts=60, moe_intermediate_size=1408),
        14_315_784_192,
    ),
    "Qwen 3 30B A3B": (
        sizes("qwen3_moe", 2048, 48, 32, 4, 6144, 151_936, head_dim=128, num_experts=128, moe_intermediate_size=768),
        30_532_122_624,
    ),
    "Gemma 2B": (sizes("gemma", 2048, 18, 8, 1, 16_384, 256_000), 2_506_172_416),
    "Gemma 2 2B": (sizes("gemma2", 2304, 26, 8, 4, 9216, 256_000), 2_614_341_888),
    "Gemma 3 270M": (sizes("gemma3_text", 640, 18, 4, 1, 2048, 262_144), 268_098_176),
    "Gemma 3 1B": (sizes("gemma3_text", 1152, 26, 4, 1, 6912, 262_144), 999_885_952),
    "Phi-3 mini": (sizes("phi3", 3072, 32, 32, 32, 8192, 32_064), 3_821_079_552),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_known_family_has_exactly_the_weights_of_its_dimensions(name):
    config, parameters = MODELS[name]
    weights = estimated(config | {"torch_dtype": "bfloat16"})
    assert weights.parameters == parameters
    assert weights.input_bytes + sum(weights.layer_bytes) + weights.output_bytes == 2 * parameters
    assert weights.assumptions == ()


def test_a_tied_model_has_no_output_matrix():
    config = sizes("llama", 64, 2, 4, 4, 96, 100, dtype="float16")
    apart, tied = estimated(config), estimated(config | TIED)
    assert (apart.tied, tied.tied) == (False, True)
    assert apart.output_bytes - tied.output_bytes == 2 * 64 * 100
    assert tied.output_bytes == 2 * 64


def test_biases_count():
    config = sizes("llama", 64, 2, 4, 2, 96, 100, dtype="float16")
    biased = estimated(config | {"attention_bias": True, "mlp_bias": True})
    more = (64 + 32 + 32 + 64) + (96 + 96 + 64)
    assert biased.layer_bytes[0] - estimated(config).layer_bytes[0] == 2 * more


def test_dense_layers_among_experts_are_smaller():
    config = sizes("qwen3_moe", 64, 4, 4, 2, 96, 100, num_experts=8, moe_intermediate_size=32, dtype="float16")
    layers = estimated(config | {"mlp_only_layers": [1]}).layer_bytes
    assert layers[0] - layers[1] == 2 * (8 * (3 * 64 * 32 + 64) - 3 * 64 * 96)
    assert layers[0] == layers[2] == layers[3]


def test_a_family_that_is_not_known_is_taken_to_be_a_llama():
    config = sizes("new", 64, 2, 4, 4, 96, 100)
    weights = estimated(config)
    assert weights.parameters == estimated(config | {"model_type": "llama"}).parameters
    assert weights.dtype == "float32"
    assert weights.assumptions == (
        "Weights are taken to be float32.",
        "Layers are taken to have the weights that Llama's have.",
        "The output matrix is taken to be another than the embeddings.",
    )


def test_what_sees_or_hears_is_said_not_to_be_counted():
    inner = sizes("llama", 64, 2, 4, 4, 96, 100)
    config = {"model_type": "llava", "text_config": inner, "vision_config": {}, "dtype": "float16"}
    assert estimated(config).assumptions == ("Weights that read anything but text are not counted.",)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dtype": "int3"}, "dtype='int3' is not valid: it must be one of float64, float32"),
        ({"intermediate_size": None}, "has no intermediate_size"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantized \(gptq int4\)"),
    ],
)
def test_what_cannot_be_worked_out_is_refused(values, says):
    with pytest.raises(ModelFileError, match=says) as caught:
        estimated(sizes("llama", 64, 2, 4, 4, 96, 100) | values)
    assert caught.value.path == str(PATH)
