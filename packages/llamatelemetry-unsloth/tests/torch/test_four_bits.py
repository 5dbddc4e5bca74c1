"""An adapter is trained on a base model in four bits, and merged into the same model in sixteen."""

from __future__ import annotations

import pytest

from llamatelemetry.errors import QuantizedBaseError
from llamatelemetry.unsloth import FinetuneStage, load_model, merge_adapter


def test_the_adapter_merges_into_the_model_in_sixteen_bits_and_not_into_the_one_in_four(base, lines, learn, tmp_path):
    lora = learn(tmp_path / "lora", load_in_4bit=True)

    loaded = load_model(base, engine="peft", load_in_4bit=True)
    loaded.model.save_pretrained(tmp_path / "four")
    with pytest.raises(QuantizedBaseError, match="quantized to 4 bits by bitsandbytes"):
        merge_adapter(tmp_path / "four", lora, tmp_path / "merged")
    assert merge_adapter(base, lora, tmp_path / "merged").dtype == "bfloat16"


def test_what_quantizes_decides_the_outcome_too():
    assert "bitsandbytes" in FinetuneStage(engine="peft", load_in_4bit=True).tools
    assert "bitsandbytes" not in FinetuneStage(engine="peft").tools
