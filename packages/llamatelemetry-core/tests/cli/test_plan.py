"""``llamatelemetry plan`` plans a made-up model of a made-up format, and says what it cannot do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.testing.nvml_stub import A100_MIG, A100_X4, TESLA_T4_X2, NvmlStub

READER = """
from llamatelemetry.plugins import hookimpl

@hookimpl
def register_model_readers(registry):
    registry.add("toy", "toy_plugin_targets:read")
"""

SHAPES = """
from llamatelemetry.distributed.shape import LayerShape, ModelShape

MIB = 2**20

def read(path):
    if path.suffix not in {".toy", ".gguf"}:
        return None
    layer = LayerShape(weights_bytes=100 * MIB, key_elements=1024, value_elements=1024)
    return ModelShape(
        name="Toy 3B", path=path, format=path.suffix[1:], architecture="toy", layers=(layer,) * 24,
        input_bytes=200 * MIB, output_bytes=250 * MIB, tied_output=False, embedding_length=2048,
        vocabulary_size=32_000, head_count=16, context_length=32_768, parameters=3_000_000_000,
        quantization="Q4_K_M", feed_forward_length=8192, attention_length=2048,
        assumptions=("Its windows are not known: all layers are counted as full attention.",),
    )
"""


TOYS_ONLY = {"LLAMATELEMETRY_PLUGINS": "toy"}
HIDDEN = (
    "  hidden states               ~28.09 MiB  512 tokens * 14384 numbers * 4 B: 7 * 2048, 0 that cross, and indices"
)
COMMAND = (
    "  CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0 llama-server --model model.gguf --ctx-size 32768 "
    "--parallel 4 --no-kv-unified --n-gpu-layers 25 --split-mode none --main-gpu 0 --flash-attn on "
    "--cache-type-k f16 --cache-type-v f16 --batch-size 2048 --ubatch-size 512"
)


@pytest.fixture
def toys(shelf: Any) -> Any:
    """The shelf, with a reader of the formats above and a model in each."""
    shelf.plant("toy", READER, targets=SHAPES)
    for name in ("model.toy", "model.gguf"):
        (shelf.folder / name).touch()
    return shelf


def planned(toys: Any, *arguments: str, model: str = "model.gguf", **environ: str) -> Any:
    done = toys.llamatelemetry("plan", model, *arguments, "--json", env={**TOYS_ONLY, **environ})
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_a_plan_shows_the_arithmetic_and_the_command(toys: Any) -> None:
    done = toys.llamatelemetry(
        *("plan", "model.gguf", "--ctx", "8192", "--slots", "4", "--vram", "15GiB,15GiB"),
        env=TOYS_ONLY,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Toy 3B: toy, Q4_K_M, 3.00 billion parameters, 24 layers, 2.78 GiB",
        "Asked for: 4 slots of 8192 tokens, a cache each, KV in f16",
        "Note: Its windows are not known: all layers are counted as full attention.",
        "",
        "GPU 0  layers 0 to 23 and the output",
        "  weights                       2.34 GiB  24 layers as they are stored",
        "  output weights              250.00 MiB  norm and output matrix as they are stored",
        "  KV cache                      3.00 GiB  4 * 8192 cells * 24 layers * (2048 B of keys + 2048 B of values)",
        HIDDEN,
        "  attention masks              ~8.00 MiB  1 * 512 tokens * 8192 cells * 2 B",
        "  widest step: feed-forward   ~48.00 MiB  512 tokens * 24576 numbers * 4 B",
        "  alignment                    ~1.00 MiB  gaps between what is aligned",
        "  reserve                      ~1.00 GiB  CUDA context, cuBLAS and what else is in no buffer",
        "  needs                         6.67 GiB  of 15.00 GiB free: leaves 8.33 GiB",
        "",
        "GPU 1  left free: 15.00 GiB",
        "",
        "CPU  input",
        "  input weights               200.00 MiB  they stay on the CPU; the file is mapped, not copied",
        HIDDEN,
        "  attention masks              ~8.00 MiB  1 * 512 tokens * 8192 cells * 2 B",
        "  alignment                    ~1.00 MiB  gaps between what is aligned",
        "  logits to sample from       500.00 KiB  4 slots * 32000 tokens * 4 B",
        "  needs                       237.58 MiB  of the host's memory",
        "",
        "~ is an upper bound; all else is what llama.cpp allocates.",
        "",
        "Run:",
        COMMAND,
    ]


def test_every_term_in_json_adds_up(toys: Any) -> None:
    code, said = planned(toys, "--ctx", "32768", "--vram", "9GiB,15GiB", "--spread")
    assert (code, said["fits"]) == (0, True)
    for device in (*said["gpus"], said["cpu"]):
        assert device["needs_bytes"] == sum(term["bytes"] for term in device["terms"])
    for gpu in said["gpus"]:
        assert gpu["headroom_bytes"] == gpu["free_bytes"] - gpu["needs_bytes"]
    assert sum(said["tensor_split"]) == said["gpu_layers"] == 25
    assert said["environment"]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert said["serving"]["context_total"] == 4 * 32_768
    assert said["model"]["assumptions"]


def test_the_split_gpu_pattern_leaves_a_gpu_alone(toys: Any) -> None:
    code, said = planned(toys, "--vram", "8GiB,15GiB", "--leave", "1")
    assert code == 0
    assert [gpu["index"] for gpu in said["gpus"]] == [0]
    assert [gpu["index"] for gpu in said["left_free"]] == [1]
    assert said["environment"]["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_refusal_says_by_how_much_and_what_would_fit_and_ends_with_1(toys: Any) -> None:
    done = toys.llamatelemetry(
        *("plan", "model.gguf", "--ctx", "32768", "--slots", "8", "--vram", "12GiB"),
        env=TOYS_ONLY,
    )
    assert done.returncode == 1
    said = done.stdout.split("It does not fit: ")[1].splitlines()
    assert said[0] == "15.69 GiB are missing."
    assert said[1] == "  GPU 0: needs 27.69 GiB, has 12.00 GiB free"
    assert [line.rpartition("  ")[2] for line in said[3:]] == [
        "(--kv q4_0)",
        "(--slots 2)",
        "(--ctx 11264)",
        "(--gpu-layers auto)",
    ]


def test_each_way_out_fits_when_it_is_taken(toys: Any) -> None:
    wanted = ("--ctx", "32768", "--slots", "8", "--vram", "12GiB")
    code, refused = planned(toys, *wanted)
    assert code == 1
    assert refused["error"] == {"type": "DoesNotFit", "message": "it does not fit: 15.69 GiB are missing"}
    assert refused["fits"] is False
    for way in refused["ways_out"]:
        code, said = planned(toys, *wanted, *way["arguments"])
        assert code == 0, way
        assert min(gpu["headroom_bytes"] for gpu in said["gpus"]) == way["headroom_bytes"]


def test_a_model_that_is_no_gguf_file_is_planned_and_has_to_be_converted(toys: Any) -> None:
    done = toys.llamatelemetry("plan", "model.toy", "--vram", "15GiB")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "llama.cpp runs GGUF files: convert this toy model first."


def test_contexts_are_no_longer_than_usual_unless_they_are_asked_for(toys: Any) -> None:
    _, said = planned(toys, "--vram", "15GiB")
    assert (said["serving"]["context_length"], said["serving"]["slots"]) == (4096, 4)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("--kv", "q3_k"), "UsageError", "kv='q3_k' is not valid: give one of f32, f16"),
        (("--vram", "much"), "UsageError", "vram='much' is not valid: give an amount such as 15GiB"),
        (("--reserve", "-1"), "UsageError", "reserve='-1' is not valid"),
        (("--gpu-layers", "some"), "UsageError", "give all, auto or a number"),
        (("--gpu-layers", "99"), "UsageError", "this model has 24 layers and its output: give 0 to 25"),
        (("--leave", "3"), "UsageError", "no GPU has that number; there are: 0"),
        (("--ctx", "0"), "UsageError", "context_length=0 is not valid"),
        (("--kv", "q8_0", "--no-flash-attention"), "UsageError", "quantized values need flash attention"),
        (("--ctx", "many"), "BadParameter", "'many' is not a valid integer"),
    ],
)
def test_an_option_that_is_no_good_is_wrong_usage_and_not_a_model_that_does_not_fit(
    toys: Any, arguments: tuple[str, ...], kind: str, message: str
) -> None:
    code, said = planned(toys, "--vram", "15GiB", *arguments)
    assert code == 2
    assert said["error"]["type"] == kind
    assert message in said["error"]["message"]


def test_a_model_that_cannot_be_read_is_a_failure_and_no_wrong_usage(toys: Any) -> None:
    code, said = planned(toys, "--vram", "15GiB", model="none.gguf")
    assert (code, said["error"]["type"]) == (1, "ModelFileError")


def test_keys_and_values_may_be_kept_differently(toys: Any) -> None:
    _, said = planned(toys, "--vram", "15GiB", "--kv", "q8_0,f16", "--kv-unified")
    assert (said["serving"]["key_type"], said["serving"]["value_type"]) == ("q8_0", "f16")
    assert "--kv-unified" in said["command"]


def test_what_two_stub_t4_have_free_is_planned_with(toys: Any, tmp_path: Path) -> None:
    first, second = TESLA_T4_X2
    with NvmlStub((replace(first, memory_used_bytes=6 * 2**30), second), tmp_path) as stub:
        code, said = planned(toys, "--ctx", "8192", **stub.environ)
        assert code == 0
        assert [gpu["index"] for gpu in said["gpus"]] == [1]
        assert [gpu["free_bytes"] for gpu in said["left_free"]] == [9 * 2**30]
        assert said["environment"] == {"CUDA_VISIBLE_DEVICES": second.uuid}
        _, said = planned(toys, "--ctx", "8192", "--leave", "1", **stub.environ)
        assert said["environment"] == {"CUDA_VISIBLE_DEVICES": first.uuid}


def test_of_a_stub_a100_that_is_split_one_instance_is_used(toys: Any, tmp_path: Path) -> None:
    with NvmlStub(A100_MIG, tmp_path) as stub:
        code, said = planned(toys, "--slots", "1", **stub.environ)
    assert code == 0
    [gpu] = said["gpus"]
    assert gpu["mig"] is True
    assert said["environment"]["CUDA_VISIBLE_DEVICES"].startswith("MIG-")


def test_of_four_stub_a100_two_are_used_that_are_near_each_other(toys: Any, tmp_path: Path) -> None:
    with NvmlStub(A100_X4, tmp_path) as stub:
        topology = json.loads(toys.llamatelemetry("topo", "--json", env=dict(stub.environ)).stdout)
        _, said = planned(toys, "--ctx", "131072", "--slots", "7", **stub.environ)
    used = {gpu["uuid"] for gpu in said["gpus"]}
    assert len(used) == 2
    assert any(used <= set(island) for island in topology["islands"])


def test_without_a_driver_the_error_says_how_to_plan_all_the_same(toys: Any) -> None:
    code, said = planned(toys, "--slots", "1")
    if code == 0:
        pytest.skip("this machine has GPUs")
    assert said["error"]["type"] == "GPUUnavailableError"
    assert "--vram 15GiB,15GiB" in said["error"]["message"]


def test_a_format_nobody_reads_says_what_to_install(toys: Any) -> None:
    (toys.folder / "model.safetensors").touch()
    code, said = planned(toys, "--vram", "15GiB", model="model.safetensors")
    assert code == 1
    assert said["error"]["type"] in {"MissingDependencyError", "PluginError"}
    assert "llamatelemetry-transformers" in said["error"]["message"]
    code, said = planned(toys, "--vram", "15GiB", model="model.onnx")
    assert said["error"]["message"].endswith("model.onnx: does not exist")


def test_help_teaches_without_importing_a_model_format(toys: Any) -> None:
    done = toys.llamatelemetry("plan", "--help")
    assert done.returncode == 0
    for word in ("--leave 1", "--reserve", "llama-server", "Exit code 1", "upper", "--gpu-layers auto"):
        assert word in done.stdout
