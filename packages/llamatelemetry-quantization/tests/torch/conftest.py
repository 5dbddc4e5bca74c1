"""Checkpoints as transformers saves them, and real llama.cpp to run what becomes of them."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamatelemetry.llama.model_files import demo_model

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

ASK = """
import json, sys, urllib.request
import xllamacpp
path, questions = sys.argv[1], json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = path
params.n_ctx = 256
params.n_parallel = 1
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
for route, body in questions:
    request = urllib.request.Request(server.listening_address + route, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        print("ANSWER", answer.read().decode())
del server
"""


@pytest.fixture(scope="session")
def ask():
    """Asks llama.cpp's server of a model some questions: pairs of a route and a body."""

    def run(path, questions):
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(path)],
            input=json.dumps(questions),
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        lines = done.stdout.splitlines()
        return [json.loads(line.removeprefix("ANSWER ")) for line in lines if line.startswith("ANSWER ")]

    return run


@pytest.fixture(scope="session")
def smollm(tmp_path_factory) -> tuple[Path, object, object]:
    """SmolLM2 as a checkpoint in shards of BF16; the model of it in float32, and its tokenizer."""
    path = demo_model()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    model.hf_quantizer, model.is_quantized = None, False
    for owner, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)
    folder = tmp_path_factory.mktemp("smollm") / "SmolLM2"
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="100MB")
    tokenizer.save_pretrained(folder)
    return folder, model.float().eval(), tokenizer
