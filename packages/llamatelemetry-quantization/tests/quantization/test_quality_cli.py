from __future__ import annotations

import json

import pytest

from llamatelemetry.cli.app import run
from llamatelemetry.quantization import quantize


@pytest.fixture
def given(tmp_path, tiny):
    """A model, its parent, and how to measure them in a moment."""
    quantize(tiny, tmp_path / "q4.gguf", file_type="Q4_0", threads=1)
    text = tmp_path / "text.txt"
    text.write_text("Some words that a small model is to be surprised by, each time anew. " * 4)
    model, parent = str(tmp_path / "q4.gguf"), ["--parent", str(tiny)]
    return ["quality", model, *parent, "--text", str(text), "--context", "64", "--threads", "2"]


def test_people_get_a_table(given, capsys):
    assert run(given) == 0

    said = capsys.readouterr()
    assert "windows of 64 tokens of text.txt" in said.out
    for row in ("perplexity", "ratio of the two", "divergence, mean, nats", "same first choice", "95 % interval"):
        assert row in said.out
    assert said.err == ""


def test_programs_get_one_object(given, capsys):
    assert run([*given, "--json", "--max-divergence", "1"]) == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["model"].endswith("q4.gguf")
    assert 0 < facts["divergence"]["value"] < 1
    assert facts["perplexity"]["low"] < facts["perplexity"]["value"] < facts["perplexity"]["high"]


def test_a_model_past_a_limit_is_exit_code_1(given, capsys):
    assert run([*given, "--max-ratio", "0.5"]) == 1

    assert "perplexity_ratio" in capsys.readouterr().err


def test_a_limit_wants_the_parent_before_anything_is_measured(tiny, capsys):
    assert run(["quality", str(tiny), "--max-divergence", "1"]) == 1

    assert "give the model that this one was made of" in capsys.readouterr().err


def test_help_says_what_the_figures_mean(capsys):
    assert run(["quality", "--help"]) == 0

    assert "--parent model-f16.gguf" in capsys.readouterr().out
