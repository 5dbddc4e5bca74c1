from __future__ import annotations

import json

from llamatelemetry.cli.app import run
from llamatelemetry.quantization import convert
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint


def test_the_verb_writes_the_file_that_the_function_writes(tmp_path, capsys):
    folder = write_small_checkpoint(tmp_path / "small")
    convert(folder, tmp_path / "function.gguf", file_type="BF16")

    assert run(["export-gguf", str(folder), str(tmp_path / "verb.gguf"), "--type", "bf16", "--threads", "1"]) == 0

    assert "verb.gguf is llama in BF16" in capsys.readouterr().out
    assert (tmp_path / "verb.gguf").read_bytes() == (tmp_path / "function.gguf").read_bytes()


def test_json_is_one_object(tmp_path, capsys):
    folder = write_small_checkpoint(tmp_path / "small", "Qwen3ForCausalLM")

    assert run(["export-gguf", str(folder), str(tmp_path / "out.gguf"), "--json"]) == 0

    figures = json.loads(capsys.readouterr().out)
    assert (figures["architecture"], figures["type"]) == ("qwen3", "F16")
    assert figures["size_bytes"] == (tmp_path / "out.gguf").stat().st_size


def test_an_error_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert run(["export-gguf", str(tmp_path / "none"), str(tmp_path / "out.gguf")]) == 1
    assert capsys.readouterr().err.startswith(f"Error: {tmp_path / 'none'}: is not a folder")
