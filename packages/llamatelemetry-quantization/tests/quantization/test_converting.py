from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamatelemetry.errors import InvalidValueError, ModelFileError, UnknownNameError
from llamatelemetry.quantization import convert, quantize
from llamatelemetry.quantization.conversion.families import FAMILIES
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint

TESTS = Path(__file__).parents[1]


def load_golden_script():
    spec = importlib.util.spec_from_file_location("convert_golden", TESTS / "convert_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOLDEN = load_golden_script()
EXPECTED = json.loads((TESTS / "convert_golden.json").read_text())


def fields(path):
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


@pytest.fixture
def checkpoint(tmp_path):
    return write_small_checkpoint(tmp_path / "small")


@pytest.mark.parametrize("file_type", GOLDEN.FILE_TYPES)
@pytest.mark.parametrize("case", EXPECTED)
def test_tensors_are_those_of_llama_cpps_own_converter_to_the_byte(tmp_path, case, file_type):
    architecture, options = GOLDEN.CASES[case]
    folder = write_small_checkpoint(tmp_path / "in", architecture, **options)

    convert(folder, tmp_path / "out.gguf", file_type=file_type)

    found = json.dumps(GOLDEN.digests(tmp_path / "out.gguf")).encode()
    assert hashlib.sha256(found).hexdigest() == EXPECTED[case][file_type]


def test_every_family_was_compared():
    assert {architecture for architecture, _ in GOLDEN.CASES.values()} == set(FAMILIES)
    assert set(EXPECTED) == set(GOLDEN.CASES)


def test_shards_and_threads_change_no_tensor(tmp_path):
    whole = write_small_checkpoint(tmp_path / "whole")
    sharded = write_small_checkpoint(tmp_path / "sharded", shards=3)

    convert(whole, tmp_path / "whole.gguf", threads=1)
    convert(sharded, tmp_path / "sharded.gguf", threads=3)

    assert GOLDEN.digests(tmp_path / "whole.gguf") == GOLDEN.digests(tmp_path / "sharded.gguf")


def test_the_same_checkpoint_makes_the_same_file(tmp_path, checkpoint):
    for name in ("one", "two"):
        convert(checkpoint, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_was_made_is_said(tmp_path, checkpoint):
    made = convert(checkpoint, tmp_path / "out.gguf", file_type="q8_0", name="tiny", metadata={"a.key": "value"})

    assert (made.architecture, made.file_type) == ("llama", "Q8_0")
    assert made.size_bytes == (tmp_path / "out.gguf").stat().st_size
    assert made.tensor_types == {"Q8_0": 16, "F32": 5}
    found = fields(tmp_path / "out.gguf")
    assert found["general.name"] == "tiny"
    assert found["a.key"] == "value"
    assert found["llama.rope.dimension_count"] == 16


def test_what_was_made_is_quantized_further(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.gguf")
    assert quantize(tmp_path / "out.gguf", tmp_path / "small.gguf", file_type="Q4_0").tensor_types["Q4_0"]


def test_progress_reaches_the_end(tmp_path, checkpoint):
    seen = []
    convert(checkpoint, tmp_path / "out.gguf", on_progress=seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert [each.done_bytes for each in seen] == sorted(each.done_bytes for each in seen)


def test_what_progress_raises_ends_it_and_nothing_is_left(tmp_path, checkpoint):
    (tmp_path / "out.gguf").write_text("before")

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, tmp_path / "out.gguf", on_progress=stop)

    assert (tmp_path / "out.gguf").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf", "small"]


def test_an_architecture_that_is_not_known_is_an_error_that_lists_those_that_are(tmp_path, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))

    with pytest.raises(UnknownNameError, match=r"'MambaForCausalLM'.*LlamaForCausalLM.*Qwen3ForCausalLM") as caught:
        convert(checkpoint, tmp_path / "out.gguf")
    assert caught.value.known == tuple(FAMILIES)


def test_smaller_types_are_refused_with_what_makes_them(tmp_path, checkpoint):
    with pytest.raises(InvalidValueError, match="F32, F16, BF16, Q8_0; smaller types are made of such a file"):
        convert(checkpoint, tmp_path / "out.gguf", file_type="Q4_K_M")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "README.md"])
def test_no_file_of_the_checkpoint_is_written_over(checkpoint, name):
    (checkpoint / "README.md").write_text("What it is.")
    (checkpoint / "nowhere.json").symlink_to("gone")
    before = (checkpoint / name).read_bytes()
    with pytest.raises(InvalidValueError, match="another file than one of the checkpoint"):
        convert(checkpoint, checkpoint / name)
    assert (checkpoint / name).read_bytes() == before


def test_a_gguf_file_may_stand_in_its_checkpoint_and_is_made_again(checkpoint):
    first = convert(checkpoint, checkpoint / "model.gguf").path.read_bytes()
    assert convert(checkpoint, checkpoint / "model.gguf").path.read_bytes() == first


@pytest.mark.parametrize("key", ["general.architecture", "llama.block_count", "general.alignment", ""])
def test_keys_that_say_how_a_file_is_read_are_not_to_be_given(tmp_path, checkpoint, key):
    with pytest.raises(InvalidValueError, match="metadata"):
        convert(checkpoint, tmp_path / "out.gguf", metadata={key: "x"})


def test_numbers_that_are_too_large_for_f16_are_refused_and_fit_bf16(tmp_path, checkpoint):
    path = checkpoint / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2:] = b"\x00\x48"  # 131072 as BF16, in the output's last row.
    path.write_bytes(data)

    with pytest.raises(ModelFileError, match="too large for F16: take BF16"):
        convert(checkpoint, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
    convert(checkpoint, tmp_path / "out.gguf", file_type="BF16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_act": "relu"}, "llama.cpp computes llama with silu"),
        ({"num_hidden_layers": 1}, "which models of llama do not have"),
        ({"num_hidden_layers": 3}, "lacks 9 of 30 tensors"),
        ({"intermediate_size": 100}, "the two are of different models"),
        ({"quantization_config": {"quant_method": "gptq"}}, "of quantized weights"),
        ({"vocab_size": 10}, "of different models"),
        ({"rope_scaling": {"type": "odd"}}, "this cannot be converted"),
    ],
)
def test_a_configuration_of_another_model_is_refused(tmp_path, checkpoint, options, message):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | options))

    with pytest.raises(ModelFileError, match=message):
        convert(checkpoint, tmp_path / "out.gguf")


def test_stretched_rotations_of_llama_3_become_factors(tmp_path):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 256
    folder = write_small_checkpoint(tmp_path / "in", rope_scaling=scaling, rope_theta=500000.0)

    convert(folder, tmp_path / "out.gguf")

    (factors,) = (t.data for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors if t.name == "rope_freqs.weight")
    assert factors[0] == 1
    assert factors[-1] == 8
    assert np.all(np.diff(factors) >= 0)
    assert len(factors) == 8


CHILD = """
import resource, sys
from llamatelemetry.quantization import convert
from llamatelemetry.quantization.ggml import load_ggml
import numpy, json
load_ggml()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(sys.argv[1], sys.argv[2], file_type="Q8_0", threads=2)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_does_not_grow_with_the_model(tmp_path):
    sizes = {"hidden_size": 1024, "head_dim": 128, "num_attention_heads": 8, "intermediate_size": 4096}
    folder = write_small_checkpoint(tmp_path / "in", dtype="F32", shards=2, num_hidden_layers=2, **sizes)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(tmp_path / "out.gguf")], capture_output=True, check=True
    )

    assert weights > 100 * 2**20
    assert int(done.stdout) < 24 * 2**20
