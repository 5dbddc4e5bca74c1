"""Files made to break whoever reads them, given to everything here that reads files of their kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
KINDS = ("gguf", "safetensors", "json")
TIME_LIMIT_S = 60
MOST_CPU_S = 1.0
MOST_BYTES = 1000
"""Of a file, unless its name says that it is of thousands of something."""
MOST_MESSAGE = 1000

# What is well formed and describes a model, of which a reader need not understand everything.
COPIED = {
    "architecture-unknown",
    "blocks-2-to-the-32-less-1",
    "fine-importance",
    "fine-model",
    "heads-nan",
    "lineage-of-no-trace",
    "numbers-not-finite",
    "tensor-block-2-to-the-64",
    "text-not-utf8",
    "text-with-nul-and-escapes",
}
DESCRIBED = COPIED | {"importance-of-nothing", "parts-65535", "weights-not-finite"}
# llama.cpp would refuse these; what is told of them is true.
TOLD = DESCRIBED | {"array-in-an-array", "tensor-size-zero", "tensor-type-unknown", "tensors-out-of-order"}
STORED = {"fine-adapter", "name-twice", "tensor-type-unknown"}
NO_OBJECT = {"a-list"}
# What is JSON, and says nothing that a reader of another kind of file asks for.
OTHERS = {
    "adapter-rank-2-to-the-63",
    "an-empty-object",
    "config-epsilon-infinite",
    "deployment-digest-as-a-list",
    "deployment-name-that-leads-out",
    "deployment-needs-as-text",
    "deployment-port-infinite",
    "deployment-process-everybody",
    "ending-reason-as-a-list",
    "ending-time-infinite",
    "fine-adapter",
    "fine-config",
    "fine-deployment",
    "fine-ending",
    "fine-example",
    "fine-manifest",
    "fine-run",
    "fine-tokenizer",
    "fine-trials",
    "fine-variants",
    "key-twice",
    "manifest-path-that-leads-out",
    "manifest-size-2-to-the-63",
    "nul-escaped",
    "number-past-the-largest",
    "run-stages-null",
    "tokenizer-id-2-to-the-63",
    "tokenizer-merge-of-nothing",
    "tokenizer-pattern-of-nonsense",
    "trials-infinite",
}
# Everything that is read and not refused, by kind and reader. Whoever is not here reads nothing of its kind.
READ: Mapping[str, Mapping[str, set[str]]] = {
    "gguf": {
        "llama.gguf": TOLD,
        "llama.model_origin": TOLD - {"lineage-of-no-trace"},
        "llama.shape": TOLD
        - {"architecture-unknown", "blocks-2-to-the-32-less-1", "heads-nan", "parts-65535", "tensor-type-unknown"},
        "quantization.gguf_reading": DESCRIBED,
        "quantization.imatrix": {"fine-importance"},
        "quantization.quantize": COPIED,
    },
    "safetensors": {
        "quantization.checkpoint": STORED | {"header-of-nothing-but-metadata"},
        "unsloth.adapter": STORED,
        "untrusted.safetensors_header": STORED | {"header-of-nothing-but-metadata"},
    },
    "json": {
        "artifacts.manifest": {"fine-manifest"},
        "deployment.state": {"fine-deployment"},
        "pipeline.outcome": {"fine-run", "run-error-with-escapes"},
        "quantization.checkpoint": OTHERS,
        "quantization.convert": {"fine-config"},
        "quantization.convert.tokenizer_config": OTHERS,
        "quantization.trial_cache": {"fine-trials"},
        "quantization.variants": {"fine-variants"},
        "transformers.shape": OTHERS | NO_OBJECT,
        "unsloth.adapter": {"fine-adapter"},
        "unsloth.checkpoint": OTHERS,
        "unsloth.dataset": {"empty", "fine-example"},
        "untrusted.json_values": OTHERS | NO_OBJECT,
    },
}
# These raise nothing and say it in what they return, which is asserted on its own.
SAY_IT = {"deployment.stage", "deployment.state.ending", "quantization.logits_folder"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What came of every reading, by kind: what each reader made of what is fine, of the corpus, then the limits."""
    running = {}
    for kind in KINDS:
        scratch = tmp_path_factory.mktemp(kind)
        # One thread and one arena, so that address space is what readers asked for.
        environment = os.environ | {"LLAMATELEMETRY_HOME": str(scratch / "home"), "TMPDIR": str(scratch)}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        command = [sys.executable, "-W", "error", str(HERE / "reading.py"), kind, str(scratch)]
        running[kind] = subprocess.Popen(
            command, cwd=scratch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    found = {}
    try:
        for kind, process in running.items():
            output, errors = process.communicate(timeout=TIME_LIMIT_S)
            assert process.returncode == 0, errors
            assert "Traceback" not in errors, errors
            found[kind] = [json.loads(line) for line in output.splitlines()]
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    return found


def of_readers(told: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row | {"kind": kind} for kind, rows in told.items() for row in rows[:-1]]


def shown(row: Mapping[str, Any]) -> str:
    return f"{row['kind']}: {row['reader']} given {row['file'] or 'what is fine'}: {row['error']} {row['message']}"


def test_the_files_are_those_that_the_script_beside_them_makes():
    command = [sys.executable, str(HERE / "corpus.py"), "--check"]

    differences = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (differences.returncode, differences.stderr) == (0, "")


def test_the_files_are_small():
    files = [path for kind in KINDS for path in (HERE / kind).iterdir()]

    assert [path.name for path in files if path.stat().st_size > MOST_BYTES and not is_long(path)] == []
    assert max(path.stat().st_size for path in files) < 6000


def is_long(path: Path) -> bool:
    return any(word in path.stem for word in ("5000-digits", "2000-deep", "never-closed", "quantized-by-nonsense"))


def test_every_reader_reads_what_has_nothing_wrong_in_it(told):
    assert [shown(row) for row in of_readers(told) if not row["file"] and row["error"]] == []


def test_nothing_but_an_error_of_ours_is_raised(told):
    assert [shown(row) for row in of_readers(told) if not row["known"]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_all_the_same_is_what_can_be_read_rightly(told, kind):
    read: dict[str, set[str]] = {}
    for row in told[kind][:-1]:
        if row["file"] and not row["error"] and row["reader"] not in SAY_IT:
            read.setdefault(row["reader"], set()).add(row["file"])

    assert read == READ[kind]


def test_a_record_that_is_none_is_told_where_nothing_is_raised(told):
    rows = [row for row in told["json"][:-1] if row["file"]]
    ended = {row["file"]: row["read"] for row in rows if row["reader"] == "deployment.state.ending"}
    lapsed = {row["file"]: row["read"] for row in rows if row["reader"] == "deployment.stage"}

    assert {file for file, read in ended.items() if read != "None"} == {"fine-ending"}
    assert {file for file, read in lapsed.items() if "is no record of a deployment" not in read} == {"fine-deployment"}


def test_an_error_says_it_briefly_and_in_what_a_terminal_only_shows(told):
    messages = [(shown(row), row["message"]) for row in of_readers(told) if row["error"]]

    assert [message for message, text in messages if len(text) > MOST_MESSAGE] == []
    assert [ascii(message) for message, text in messages if not text.replace("\n", " ").isprintable()] == []


def test_nothing_is_left_and_nobody_asks_for_a_network_or_a_process(told):
    assert [(shown(row), row["left"], row["asked"]) for row in of_readers(told) if row["left"] or row["asked"]] == []


def test_no_file_costs_more_than_moments_or_the_memory_that_is_allowed(told):
    assert [shown(row) for row in of_readers(told) if row["cpu_s"] > MOST_CPU_S] == []
    # Memory has a limit in each process, past which allocating fails as an error that is none of ours.
    assert [rows[-1] for rows in told.values()] == [{"memory": True, "network": True}] * len(KINDS)
