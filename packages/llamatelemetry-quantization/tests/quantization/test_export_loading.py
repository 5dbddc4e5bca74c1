"""What was converted loads in real llama.cpp and answers; that it answers right, tests with torch show."""

from __future__ import annotations

import json
import subprocess
import sys

from llamatelemetry.quantization import convert
from llamatelemetry.quantization.conversion.families import FAMILIES
from llamatelemetry.quantization.converting import CONVERTED_TYPES
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint

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
    body = json.dumps({"prompt": "the cat", "n_predict": 4, "temperature": 0, "ignore_eos": True})
    request = urllib.request.Request(server.listening_address + "/completion", body.encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        print(json.dumps({"tokens": json.load(answer)["tokens_predicted"]}))
    del server
"""


def test_every_family_in_every_type_loads_and_answers(tmp_path):
    made = []
    for number, architecture in enumerate(FAMILIES):
        folder = write_small_checkpoint(tmp_path / architecture, architecture)
        file_type = CONVERTED_TYPES[number % len(CONVERTED_TYPES)]
        made.append(tmp_path / f"{architecture}.gguf")
        convert(folder, made[-1], file_type=file_type, name="small")

    done = subprocess.run(
        [sys.executable, "-c", ANSWER, *map(str, made)], capture_output=True, text=True, timeout=110, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line)["tokens"] for line in done.stdout.splitlines() if line.startswith("{")]
    assert answers == [4] * len(FAMILIES)
