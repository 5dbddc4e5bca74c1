"""Merged weights are those of the base model and what the adapter adds, rounded once."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint
from llamatelemetry.testing.stage_contract import StageContract
from llamatelemetry.unsloth import MergeLoraStage, merge_adapter
from llamatelemetry.unsloth.testing import write_small_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks for it.

PROMPT = torch.tensor([[(number * 37 + 11) % 250 + 3 for number in range(24)]])


class TestMergeLoraStage(StageContract):
    def make_stage(self):
        return MergeLoraStage()

    def make_inputs(self, folder):
        return {"base": write_small_checkpoint(folder / "base"), "adapter": write_small_adapter(folder / "lora")}


def added(adapter, name, scale):
    """What an adapter adds to one weight."""
    weights = load_file(adapter / "adapter_model.safetensors")
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    if f"{stem}.lora_A.weight" not in weights:
        return 0.0
    return scale * weights[f"{stem}.lora_B.weight"].float() @ weights[f"{stem}.lora_A.weight"].float()


def logits(model):
    with torch.no_grad():
        return model(PROMPT).logits


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_each_weight_is_base_plus_scale_b_a_rounded_once(tmp_path, dtype):
    base = write_small_checkpoint(tmp_path / "base", dtype=dtype)
    adapter = write_small_adapter(tmp_path / "lora", rank=4)

    made = merge_adapter(base, adapter, tmp_path / "merged")

    before, after = load_file(base / "model.safetensors"), load_file(made.path / "model.safetensors")
    assert set(before) == set(after)
    changed = 0
    for name, weight in before.items():
        exact = weight.float() + added(adapter, name, 2.0)
        assert after[name].dtype == weight.dtype
        # In float32 the order of sums may differ in the last bit, which may turn a rounding.
        torch.testing.assert_close(after[name], exact.to(weight.dtype), rtol=torch.finfo(weight.dtype).eps, atol=1e-6)
        changed += not torch.equal(after[name], weight)
    assert changed == 4
    assert made.dtype == {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[dtype]


def test_a_trained_adapter_merged_answers_as_it_did_beside_the_model(base, trained, tmp_path):
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), trained)
    expected = logits(beside.eval())

    made = merge_adapter(base, trained, tmp_path / "merged", dtype="float32")

    found = logits(AutoModelForCausalLM.from_pretrained(made.path).eval())
    assert made.dtype == "float32"
    assert (found - expected).abs().max() < 1e-4
    untouched = logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval())
    assert (found - untouched).abs().max() > 0.5


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}])
def test_kinds_of_adapters_that_peft_knows_are_merged_too(base, tmp_path, options):
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **options)
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    wrapped.save_pretrained(tmp_path / "lora")
    expected = logits(wrapped.eval())

    made = merge_adapter(base, tmp_path / "lora", tmp_path / "merged", dtype="float32")

    assert (logits(AutoModelForCausalLM.from_pretrained(made.path).eval()) - expected).abs().max() < 1e-3


def test_tied_embeddings_stay_tied(tmp_path):
    base = write_small_checkpoint(tmp_path / "base", tie_word_embeddings=True)

    made = merge_adapter(base, write_small_adapter(tmp_path / "lora"), tmp_path / "merged")

    assert "lm_head.weight" not in load_file(made.path / "model.safetensors")
    assert json.loads((made.path / "config.json").read_text())["tie_word_embeddings"]


def test_the_tokenizer_is_the_base_models_byte_for_byte(base, trained, tmp_path):
    made = merge_adapter(base, trained, tmp_path / "merged")

    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (made.path / name).read_bytes() == (base / name).read_bytes()
    assert AutoTokenizer.from_pretrained(made.path)("the 12").input_ids


def test_progress_goes_through_all_layers(base, tmp_path):
    told = []

    merge_adapter(
        base, write_small_adapter(tmp_path / "lora"), tmp_path / "merged", on_progress=lambda *at: told.append(at)
    )

    assert told == [(number, 4) for number in range(1, 5)]


def test_an_adapter_of_another_model_is_refused_by_the_layer_that_is_missing(base, tmp_path):
    layers = {"model.layers.7.self_attn.q_proj": (64, 64)}
    adapter = write_small_adapter(tmp_path / "lora", layers=layers, base_model_name_or_path="Large")

    with pytest.raises(ModelFileError, match=r"layers\.7\.self_attn\.q_proj, which this model has not: it is of Large"):
        merge_adapter(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_weights_that_its_configuration_does_not_name_are_not_passed_over(base, tmp_path):
    adapter = write_small_adapter(tmp_path / "lora", target_modules=["q_proj"])

    with pytest.raises(ModelFileError, match=r"v_proj, which its own configuration has not"):
        merge_adapter(base, adapter, tmp_path / "merged")


def test_an_adapter_of_other_sizes_is_refused(base, tmp_path):
    adapter = write_small_adapter(tmp_path / "lora", layers={"model.layers.0.self_attn.q_proj": (32, 32)})

    with pytest.raises(ModelFileError, match="cannot be loaded"):
        merge_adapter(base, adapter, tmp_path / "merged")


def test_an_adapter_that_holds_no_numbers_is_refused(base, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "lora")
    weights = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, tmp_path / "lora" / "adapter_model.safetensors")

    with pytest.raises(ModelFileError, match=r"cannot be merged.*learning rate"):
        merge_adapter(base, tmp_path / "lora", tmp_path / "merged")


def test_damaged_base_weights_are_named(base, trained, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"nothing")

    with pytest.raises(ModelFileError, match="base: cannot be loaded"):
        merge_adapter(tmp_path / "base", trained, tmp_path / "merged")


def test_a_dtype_that_no_model_has_is_named(base, trained, tmp_path):
    with pytest.raises(InvalidValueError, match="dtype"):
        merge_adapter(base, trained, tmp_path / "merged", dtype="int4")
