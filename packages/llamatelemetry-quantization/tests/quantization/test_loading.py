"""What was quantized loads in real llama.cpp and answers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.quantization import quantize

ANSWER = """
import json, sys, urllib.request
import xllamacpp
for path in sys.argv[1:]:
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = 256
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    body = json.dumps({"prompt": "The capital of France is", "n_predict": 8, "temperature": 0, "ignore_eos": True})
    request = urllib.request.Request(server.listening_address + "/completion", body.encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        print(json.dumps({"tokens": json.load(answer)["tokens_predicted"]}))
    del server
"""


def answers(*paths):
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, *map(str, paths)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line)["tokens"] for line in done.stdout.splitlines() if line.startswith("{")]


def test_small_models_of_every_block_format_load_and_answer(tmp_path, tiny, tiny_importance):
    # Those of one and two bits take seconds to make; the tables that they need are large.
    names = ("Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_S", "Q6_K", "IQ3_S", "IQ4_NL", "IQ4_XS", "BF16")
    made = []
    for name in names:
        made.append(tmp_path / f"{name}.gguf")
        quantize(tiny, made[-1], file_type=name, imatrix=tiny_importance)

    assert answers(*made) == [8] * len(names)


@pytest.mark.parametrize("file_type", ["Q4_K_M"])
def test_smollm2_loads_and_answers(tmp_path, file_type):
    quantize(demo_model(), tmp_path / "out.gguf", file_type=file_type, allow_requantize=True)

    assert answers(tmp_path / "out.gguf") == [8]
