from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from llamatelemetry.cli.app import run
from llamatelemetry.quantization import quantize
from llamatelemetry.quantization.cli import quantize as verb


def test_the_verb_writes_the_file_that_the_function_writes(tmp_path, tiny, capsys):
    quantize(tiny, tmp_path / "function.gguf", file_type="Q4_K_M")

    assert run(["quantize", str(tiny), str(tmp_path / "verb.gguf"), "--type", "q4_k_m", "--threads", "1"]) == 0

    said = capsys.readouterr()
    assert "verb.gguf is Q4_K_M" in said.out
    assert "5 Q4_K, 3 F32, 3 Q6_K" in said.out
    assert (tmp_path / "verb.gguf").read_bytes() == (tmp_path / "function.gguf").read_bytes()


def test_json_is_one_object(tmp_path, tiny, tiny_importance, capsys):
    target = tmp_path / "out.gguf"
    given = ["--imatrix", str(tiny_importance), "--override", "ffn_down=Q8_0", "--json"]

    assert run(["quantize", str(tiny), str(target), "-t", "IQ4_XS", *given]) == 0

    figures = json.loads(capsys.readouterr().out)
    assert figures["path"] == str(target)
    assert figures["size_bytes"] == target.stat().st_size
    assert figures["tensor_types"]["Q8_0"] == 1
    assert figures["replaced"] == {}


def test_what_does_not_fit_is_counted(tmp_path, narrow, capsys):
    source = narrow(tmp_path / "in.gguf", "llama", {"attn_q": (2, 288)}, blocks=1)

    assert run(["quantize", str(source), str(tmp_path / "out.gguf"), "-t", "Q4_K_M"]) == 0

    assert "1 tensors have another type" in capsys.readouterr().out


def test_an_error_is_one_line_and_exit_code_1(tmp_path, tiny, capsys):
    assert run(["quantize", str(tmp_path / "none.gguf"), str(tmp_path / "out.gguf"), "-t", "Q8_0"]) == 1
    assert capsys.readouterr().err == f"Error: {tmp_path / 'none.gguf'}: does not exist\n"

    assert run(["quantize", str(tiny), str(tmp_path / "out.gguf"), "-t", "Q9", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "InvalidValueError"


@pytest.mark.parametrize("override", ["ffn", "=Q8_0", "ffn="])
def test_an_override_that_is_none_is_wrong_usage(tmp_path, tiny, override):
    done = CliRunner().invoke(verb, [str(tiny), str(tmp_path / "out"), "-t", "Q8_0", "--override", override])
    assert done.exit_code == 2
    assert "is not PATTERN=TYPE" in done.output


def test_an_override_that_fits_no_tensor_is_said_and_nothing_is_written(tmp_path, tiny, capsys):
    target = tmp_path / "out.gguf"

    assert run(["quantize", str(tiny), str(target), "-t", "Q8_0", "--override", "ffn_dwn=Q4_0"]) == 1

    said = capsys.readouterr().err
    assert "'ffn_dwn'" in said
    assert "blk.0.attn_k.weight" in said
    assert not target.exists()
