"""Models found and not found, broken ones, devices that are not there: each has one error that says what to do."""

from __future__ import annotations

import json

import pytest
import torch

from llamatelemetry.errors import (
    BackendStartError,
    InvalidValueError,
    MissingDependencyError,
    ModelFileError,
    OutOfMemoryError,
)
from llamatelemetry.transformers import loading
from llamatelemetry.transformers.loading import device_of, load_model, load_tokenizer


@pytest.fixture
def saved(tiny, tmp_path):
    """The small model, as a folder."""
    model, tokenizer = tiny
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_loaded_with_its_tokenizer(saved, tiny):
    model, tokenizer = tiny
    loaded = load_model(saved)
    assert not loaded.training
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True))
    assert load_tokenizer(str(saved)).encode("The fox") == tokenizer.encode("The fox")


def test_dtype_and_attention_are_those_asked_for(saved):
    loaded = load_model(saved, device="cpu", dtype="bfloat16", attn="eager")
    assert loaded.dtype == torch.bfloat16
    assert loaded.config._attn_implementation == "eager"
    assert load_model(saved, dtype=torch.float16).dtype == torch.float16


@pytest.mark.parametrize("name", ["/nowhere/at-all", "./nowhere", "nowhere/model.gguf"])
def test_a_path_that_is_not_there_is_told_at_once(name):
    with pytest.raises(ModelFileError, match="no such folder"):
        load_model(name)


def test_a_name_that_is_not_in_the_cache_says_how_to_get_it():
    with pytest.raises(ModelFileError, match="hf download nobody/nothing") as caught:
        load_model("nobody/nothing")
    assert "HF_HUB_OFFLINE" in str(caught.value)
    with pytest.raises(ModelFileError, match="hf download nobody/nothing"):
        load_tokenizer("nobody/nothing")


def test_the_network_is_asked_only_for_what_is_not_here(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    asked = []

    def from_pretrained(name, **options):
        asked.append(options)
        raise OSError("We couldn't connect to the hub.\nMore.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", from_pretrained)
    with pytest.raises(ModelFileError, match="cannot be had now: We couldn't connect to the hub"):
        load_model("nobody/nothing")
    assert asked == [{"local_files_only": True}, {}]


@pytest.mark.parametrize(
    ("config", "weights", "told"),
    [
        (None, None, "model_type"),
        ({}, None, "model_type"),
        ({"model_type": "nope"}, None, "nope"),
        ({"model_type": "llama"}, None, "no file named"),
        ({"model_type": "llama", "num_hidden_layers": 1}, b"x" * 20, "header"),
    ],
)
def test_a_broken_folder_says_what_is_wrong_with_it(tmp_path, config, weights, told):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    if weights is not None:
        (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelFileError, match=told) as caught:
        load_model(tmp_path)
    assert caught.value.path == str(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [None, {"model_type": "llama"}])
def test_a_folder_without_a_tokenizer_says_so_and_what_to_do(tmp_path, config):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"no tokenizer in this folder: .*tokenizer=") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.path == str(tmp_path)


def test_a_tokenizer_that_cannot_be_read_says_what_transformers_says(saved):
    (saved / "tokenizer.json").write_text("{")
    with pytest.raises((ModelFileError, BackendStartError)) as caught:
        load_tokenizer(saved)
    assert "no tokenizer in this folder" not in str(caught.value)


@pytest.mark.parametrize("device", ["gpu0", "cuda:99", "meow", object()])
def test_a_device_that_is_not_there_is_told_with_what_torch_says(device):
    with pytest.raises(InvalidValueError, match=torch.__version__.split("+")[0]) as caught:
        device_of(device)
    assert caught.value.field == "device"


def test_without_a_gpu_the_device_is_the_cpu():
    if not torch.cuda.is_available():
        assert device_of(None) == torch.device("cpu")
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("dtype", ["float7", "int8", 7])
def test_a_type_that_weights_cannot_have_is_refused(saved, dtype):
    with pytest.raises(InvalidValueError, match="bfloat16") as caught:
        load_model(saved, dtype=dtype)
    assert caught.value.field == "dtype"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_is_one_error_that_says_what_helps(saved, monkeypatch, error):
    def full(*_args, **_options):
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(OutOfMemoryError, match="quantized") as caught:
        load_model(saved, device="cpu")
    assert (caught.value.device, caught.value.__cause__) == ("cpu", error)


def test_any_other_failure_is_a_failed_start_with_its_reason(saved, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", broken)
    with pytest.raises(BackendStartError, match=r"RuntimeError: no kernel image$"):
        load_model(saved)


def test_a_package_that_a_format_needs_is_named_with_its_command(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").touch()
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match="Run: pip install gguf"):
        load_model(tmp_path / "model.gguf")
    with pytest.raises(MissingDependencyError, match="Run: pip install accelerate"):
        load_model(tmp_path, device="auto")


def test_a_model_with_an_encoder_is_loaded_as_one(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=320, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert load_model(tmp_path).config.is_encoder_decoder
