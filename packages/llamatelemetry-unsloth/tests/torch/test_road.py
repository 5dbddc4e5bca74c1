"""From a base model to a file that real llama.cpp answers from: finetune, merge, export, by their names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamatelemetry.pipeline.definition import read_definition
from llamatelemetry.plugins import load_plugins
from llamatelemetry.quantization import QuantizationPipeline
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint
from llamatelemetry.unsloth.dataset import read_examples

EXAMPLE = Path(__file__).parents[4] / "examples" / "road"
ROAD = """
[pipeline]
name = "sums"
store = "store"
base_model = "small"

[inputs]
base = "base"
dataset = "sums.jsonl"

[[stage]]
use = "finetune"

[stage.parameters]
engine = "peft"
steps = 60
rank = 8
learning_rate = 3e-2
batch_size = 4
sequence_length = 48
seed = 7

[[stage]]
use = "merge_lora"

[[stage]]
use = "export_gguf"
parameters = { file_type = "F32" }
"""
ASK = """
import json, sys, urllib.request
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel = 256, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
body = {"prompt": sys.argv[2], "n_predict": 8, "temperature": 0}
request = urllib.request.Request(server.listening_address + "/completion", json.dumps(body).encode())
with urllib.request.urlopen(request, timeout=60) as answer:
    print("ANSWER", json.dumps(json.load(answer)["content"]))
"""


@pytest.fixture(scope="module")
def road(tmp_path_factory, lines) -> tuple[Path, object]:
    folder = tmp_path_factory.mktemp("road")
    write_small_checkpoint(folder / "base", dtype="F32")
    (folder / "sums.jsonl").write_bytes(lines.read_bytes())
    (folder / "road.toml").write_text(ROAD)
    told = read_definition(folder / "road.toml")
    pipeline = told.build(load_plugins().resolve_stage)
    return folder, pipeline.run(told.context(), store=told.store, inputs=told.inputs)


def test_nothing_has_to_be_wired_by_hand(road):
    assert [stage.inputs for stage in road[1].record.stages] == [
        {"base": "inputs.base", "dataset": "inputs.dataset"},
        {"base": "inputs.base", "adapter": "finetune.adapter"},
        {"checkpoint": "merge_lora.checkpoint"},
    ]
    assert [stage.state for stage in road[1].record.stages] == ["ran"] * 3


def test_llama_cpp_answers_from_the_exported_file_as_transformers_does_from_the_merged_model(road):
    path, merged = (road[1].artifacts[name].path for name in ("export_gguf.model", "merge_lora.checkpoint"))
    prompt = "2 plus 1 is"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    asked = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**asked, max_new_tokens=8, do_sample=False, pad_token_id=2, eos_token_id=2)
    expected = tokenizer.decode(written[0][asked["input_ids"].shape[1] :], skip_special_tokens=True)

    done = subprocess.run(
        [sys.executable, "-c", ASK, str(path), prompt], capture_output=True, text=True, timeout=100, check=True
    )

    (answer,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert json.loads(answer.removeprefix("ANSWER ")) == expected
    assert expected.strip()


def test_the_example_of_the_repository_can_be_wired_and_its_dataset_read():
    told = read_definition(EXAMPLE / "example.toml")

    wires = told.wire(told.build(load_plugins().resolve_stage))
    assert wires["merge_lora"] == {"base": "inputs.base", "adapter": "finetune.adapter"}
    assert len(list(read_examples(told.inputs["dataset"]))) == 40


def test_a_quantization_pipeline_merges_what_was_trained(base, trained, tmp_path):
    made = QuantizationPipeline(["Q8_0"], threads=1).run(base, store=tmp_path / "store", adapter=trained)

    assert list(made.models) == ["f16", "q8_0"]
    assert made.run.record.stages[0].inputs == {"base": "inputs.checkpoint", "adapter": "inputs.adapter"}
    merged = made.run.artifacts["merge_lora.checkpoint"].manifest
    assert {parent.role for parent in merged.parents} == {"base", "adapter"}
