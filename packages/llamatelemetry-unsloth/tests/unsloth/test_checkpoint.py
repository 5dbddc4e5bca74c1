"""A base model that is quantized is refused before anything is loaded."""

from __future__ import annotations

import json

import pytest

from llamatelemetry.errors import ModelFileError, QuantizedBaseError
from llamatelemetry.unsloth.merging import merge_adapter
from llamatelemetry.unsloth.testing import write_small_adapter

FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("told", "method", "bits"),
    [
        (FOUR_BITS, "bitsandbytes", 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes", 8),
        ({"quant_method": "gptq", "bits": 4}, "gptq", 4),
        ({"quant_method": "fp8"}, "fp8", None),
        ("hostile", "some method", None),
    ],
)
def test_merging_into_a_quantized_model_is_refused_and_the_error_says_why(tmp_path, told, method, bits):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": told}))

    with pytest.raises(QuantizedBaseError) as raised:
        merge_adapter(tmp_path, write_small_adapter(tmp_path / "lora"), tmp_path / "out")

    assert (raised.value.method, raised.value.bits) == (method, bits)
    assert "lose most of what was learned" in str(raised.value)
    assert "Give the same model in 16 bits" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"\x00")

    with pytest.raises(ModelFileError, match="is no folder"):
        merge_adapter(tmp_path / "file", tmp_path, tmp_path / "out")
    with pytest.raises(ModelFileError, match=r"config\.json: does not exist"):
        merge_adapter(tmp_path, tmp_path, tmp_path / "out")
