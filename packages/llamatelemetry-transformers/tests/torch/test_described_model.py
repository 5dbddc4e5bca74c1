"""What is said of a model, on real ones with random weights."""

from __future__ import annotations

import gc
import os
import weakref
from types import SimpleNamespace

import pytest
import torch

from llamatelemetry.gpu.account import Account
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.testing.nvml_stub import TESLA_T4_X2, NvmlStub
from llamatelemetry.transformers import described_model
from llamatelemetry.transformers.described_model import describe, model_name


def test_a_model_is_described_by_its_configuration_and_its_weights(make_tiny):
    model = make_tiny()
    info = describe(model)
    assert info.model == "LlamaForCausalLM"
    assert info.provider == "transformers"
    assert info.architecture == "llama"
    assert info.quantization == "float32"
    assert info.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert info.context_length == 512
    assert info.in_process
    assert info.pid == os.getpid()
    assert info.gpus == ()


def test_a_model_is_described_once_until_it_changes(make_tiny):
    model = make_tiny()
    first = describe(model)
    assert describe(model) is first
    model.to(torch.bfloat16)
    assert describe(model).quantization == "bfloat16"
    model.resize_token_embeddings(10)
    assert describe(model).parameters == model.num_parameters() != first.parameters


def test_a_forked_process_says_that_it_is_another_one(make_tiny, monkeypatch):
    model = make_tiny()
    describe(model)
    monkeypatch.setattr(os, "getpid", lambda: 4242)
    assert describe(model).pid == 4242


def test_a_model_is_not_kept_alive_by_its_description(make_tiny):
    model = make_tiny()
    describe(model)
    known, before = weakref.ref(model), len(described_model._known)
    del model
    gc.collect()
    assert known() is None
    assert len(described_model._known) < before


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("gpt2", "gpt2"),
        ("/srv/models/my-model", "my-model"),
        ("/srv/models/my-model/", "my-model"),
        ("./my-model", "my-model"),
        ("~/models/my-model", "my-model"),
        ("a/b/c", "c"),
        ("/srv/.cache/hub/models--owner--name/snapshots/0123abc", "owner/name"),
        ("", "LlamaForCausalLM"),
    ],
)
def test_a_name_has_no_folders_of_this_machine(make_tiny, name, public):
    model = make_tiny()
    model.config._name_or_path = name
    assert model_name(model) == public
    assert describe(model).model == public


def test_a_folder_that_is_here_is_named_by_its_last_part(make_tiny, tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    model = make_tiny()
    model.config._name_or_path = "owner/name"
    assert model_name(model) == "name"
    model.config._name_or_path = "."
    assert model_name(model) == tmp_path.name


@pytest.mark.parametrize(
    ("told", "quantization"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes nf4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes fp4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes int8"),
        ({"quant_method": "gptq", "bits": 4}, "gptq int4"),
        ({"quant_method": SimpleNamespace(value="awq"), "bits": 4}, "awq int4"),
        ({"quant_method": "fp8"}, "fp8"),
        ({}, "quantized"),
        ({"quant_method": "gguf"}, "float32"),
    ],
)
def test_quantized_weights_are_told_by_method_and_format(make_tiny, told, quantization):
    for config in (told, SimpleNamespace(to_dict=lambda: told)):
        model = make_tiny()
        model.config.quantization_config = config
        assert describe(model).quantization == quantization
        del model.config.quantization_config


@pytest.fixture
def cuda_of_three(monkeypatch):
    """Three GPUs as torch tells of them, because this machine may have none: what it counts are the visible ones."""
    known = ["7e0a5700-0000-4000-8000-000000000001", "7e0a5700-0000-4000-8000-000000000000", None]

    def properties(index):
        assert index < len(known), "Invalid device id"
        uuid = known[index]
        return SimpleNamespace() if uuid is None else SimpleNamespace(uuid=uuid)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(known))
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    return tuple((f"GPU-{uuid}", f"MIG-{uuid}") for uuid in known)


@pytest.mark.parametrize(
    ("places", "indices"),
    [
        ({"": "cpu"}, ()),
        ({"model": 0, "lm_head": 1}, (0, 1)),
        ({"model": "cuda:1", "lm_head": "cpu"}, (1,)),
        ({"": torch.device("cuda")}, (0,)),
        ({"model": "disk", "lm_head": torch.device("cuda", 1)}, (1,)),
    ],
)
def test_gpus_are_those_that_parts_of_it_are_on_by_names_that_mean_the_same_to_everybody(
    make_tiny, cuda_of_three, places, indices
):
    model = make_tiny()
    model.hf_device_map = places
    assert describe(model).gpus == tuple(name for index in indices for name in cuda_of_three[index])


@pytest.mark.parametrize("place", [2, 7])
def test_a_gpu_that_torch_has_no_name_for_is_any_that_this_process_sees(make_tiny, cuda_of_three, place):
    model = make_tiny()
    model.hf_device_map = {"": place}
    assert describe(model).gpus is None


def test_a_gpu_is_told_by_its_name_and_not_by_where_cuda_counts_it_stub(
    make_tiny, cuda_of_three, tmp_path, monkeypatch
):
    # CUDA's first device is the second that nvidia-smi lists.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    model = make_tiny()
    model.hf_device_map = {"": 0}
    with NvmlStub(TESLA_T4_X2, tmp_path):
        reader = Nvml()
        reader.open()
        used = Account(lambda: None, gpus=describe(model).gpus).devices_of(reader.devices)
        reader.close()
    assert [device.index for device in used] == [1]


@pytest.mark.parametrize("length", [None, 0, 2**31, "long"])
def test_a_length_that_is_none_is_left_open(make_tiny, length):
    model = make_tiny()
    object.__setattr__(model.config, "max_position_embeddings", length)
    assert describe(model).context_length is None
