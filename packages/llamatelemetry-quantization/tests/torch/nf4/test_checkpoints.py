from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llamatelemetry.cli.app import run
from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.nf4 import FourBit, dequantize_tensor, measure_checkpoint, quantize_tensor
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_each_matrix_is_measured_as_safetensors_reads_it(tmp_path, device, dtype):
    folder = write_small_checkpoint(tmp_path / "small", dtype=dtype, shards=2)
    seen = []

    found = measure_checkpoint(folder, FourBit(name="fp4"), device=device, on_progress=seen.append)

    stored = {}
    for path in folder.glob("*.safetensors"):
        stored |= load_file(path)
    assert {each.name for each in found.tensors} | set(found.kept) == set(stored)
    assert all("proj" in each.name for each in found.tensors)
    for each in found.tensors:
        weight = stored[each.name].to(device)
        back = dequantize_tensor(quantize_tensor(weight, FourBit(name="fp4")))
        error = float((weight.double() - back.double()).norm() / weight.double().norm())
        assert each.loss.relative_error == pytest.approx(error, rel=1e-4)
    assert seen[-1].done_bytes == seen[-1].total_bytes == sum(stored[each.name].nbytes for each in found.tensors)
    assert found.source_bytes == sum(each.nbytes for each in stored.values())
    elements = sum(each.numel() for each in stored.values())
    assert found.bits_per_weight == pytest.approx(8 * found.size_bytes / elements)


def test_the_verb_says_it_as_a_table_and_as_json(tmp_path, capsys):
    folder = write_small_checkpoint(tmp_path / "small")
    assert run(["nf4", str(folder), "--json", "--single", "--block-size", "32"]) == 0
    figures = json.loads(capsys.readouterr().out)

    assert figures["format"] == {"name": "nf4", "block_size": 32, "double_quantization": False}
    assert figures["quantized"]["bits_per_weight"] == 5.0
    assert {row["name"].partition(".")[0] for row in figures["tensors"]} == {"model"}
    assert "lm_head.weight" in figures["kept"]

    assert run(["nf4", str(folder), "--format", "fp4", "--skip", "layers.0"]) == 0
    told = capsys.readouterr().out
    assert "model.layers.1.mlp.down_proj.weight" in told
    assert "model.layers.0" not in told
    assert "In FP4 the model would take" in told


def test_numbers_that_are_not_finite_are_named(tmp_path):
    folder = write_small_checkpoint(tmp_path / "small", dtype="F32")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][0, 0] = torch.nan
    save_file(tensors, path)

    with pytest.raises(ModelFileError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*not finite"):
        measure_checkpoint(folder)
    with safe_open(path, "np") as file:
        assert np.isnan(file.get_tensor(name)[0, 0])


def test_a_device_that_is_not_here_is_one_line(tmp_path, capsys):
    assert run(["nf4", str(write_small_checkpoint(tmp_path / "small")), "--device", "cuda:99"]) == 1
    assert capsys.readouterr().err.startswith("Error: device='cuda:99' is not valid: give one that this torch can use")
