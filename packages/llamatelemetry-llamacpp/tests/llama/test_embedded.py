from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import xllamacpp

from llamatelemetry.llama.client import LlamaClient
from llamatelemetry.llama.embedded import CPU_BATCH_PER_THREAD, READY_PREFIX, configure, default_batch


def options(model_path, **changes):
    return {
        "parent_pid": os.getpid(),
        "model": str(model_path),
        "alias": "smol",
        "port": 0,
        "context_total": 512,
        "slots": 2,
        "threads": 1,
        "gpu_layers": None,
        "embeddings": False,
        "pooling": None,
        "batch": None,
        "kv_unified": None,
        "cache_ram_mib": None,
        **changes,
    }


def start(options) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "llamatelemetry.llama.embedded", json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def child(model_path) -> Iterator[subprocess.Popen[bytes]]:
    with start(options(model_path)) as process:
        yield process
        process.kill()


def ready_port(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(READY_PREFIX.encode()):
            return int(json.loads(line[len(READY_PREFIX) :])["port"])
    raise AssertionError("it ended without a word")


def test_options_reach_the_installed_release_of_xllamacpp(model_path):
    params = xllamacpp.CommonParams()
    configure(params, options(model_path, port=1234, gpu_layers=7))
    assert params.model.path == str(model_path)
    assert params.model_alias == {"smol"}
    assert (params.port, params.n_ctx, params.n_parallel, params.n_gpu_layers) == (1234, 512, 2, 7)
    assert params.hostnames == ["127.0.0.1"]
    assert params.cpuparams.n_threads == 1
    assert params.cpuparams_batch.n_threads == 1
    assert params.endpoint_metrics
    assert params.endpoint_slots


def test_what_is_not_decided_is_left_alone(model_path):
    params, untouched = xllamacpp.CommonParams(), xllamacpp.CommonParams()
    configure(params, options(model_path))
    for name in ("n_gpu_layers", "embedding", "pooling_type", "n_batch", "n_ubatch", "kv_unified", "cache_ram_mib"):
        assert getattr(params, name) == getattr(untouched, name)


def test_decisions_about_embeddings_batches_and_the_cache_reach_xllamacpp(model_path):
    params = xllamacpp.CommonParams()
    configure(params, options(model_path, embeddings=True, pooling="last", batch=96, kv_unified=True, cache_ram_mib=0))
    assert params.embedding
    assert params.pooling_type == xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    assert (params.n_batch, params.n_ubatch, params.kv_unified, params.cache_ram_mib) == (96, 96, True, 0)


def device(kind: str) -> dict:
    return {"name": kind, "type": xllamacpp.ggml_backend_dev_type[f"GGML_BACKEND_DEVICE_TYPE_{kind}"]}


@pytest.mark.parametrize(("threads", "batch"), [(1, 64), (4, 256), (16, 512)])
def test_a_cpu_takes_batches_that_it_is_soon_done_with(threads, batch):
    assert default_batch(threads, [device("CPU"), device("ACCEL")]) == batch


@pytest.mark.parametrize("kind", ["GPU", "IGPU"])
def test_a_gpu_takes_the_batches_llama_cpp_chooses(kind):
    assert default_batch(1, [device("CPU"), device(kind)]) is None


def test_the_installed_release_lists_its_devices():
    assert default_batch(1, xllamacpp.get_device_info()) == CPU_BATCH_PER_THREAD


def older_params() -> SimpleNamespace:
    """Settings as an older release spelled them."""
    return SimpleNamespace(
        model=SimpleNamespace(path=""),
        model_alias="",
        hostname="localhost",
        port=8080,
        n_ctx=0,
        n_parallel=1,
        cpuparams=SimpleNamespace(n_threads=-1),
        cpuparams_batch=SimpleNamespace(n_threads=-1),
        endpoint_metrics=False,
        endpoint_slots=False,
    )


def test_names_and_shapes_of_an_older_release_are_understood(model_path):
    params = older_params()
    configure(params, options(model_path))
    assert (params.hostname, params.model_alias) == ("127.0.0.1", "smol")
    assert not hasattr(params, "hostnames")


def test_a_setting_that_is_gone_is_named(model_path):
    params = older_params()
    del params.n_parallel
    with pytest.raises(RuntimeError, match="n_parallel"):
        configure(params, options(model_path))


def test_it_says_its_port_once_it_serves(child):
    port = ready_port(child)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as reply:
        assert json.load(reply) == {"status": "ok"}


@pytest.mark.parametrize(("pooling", "offered"), [(None, False), ("last", True)])
def test_a_model_that_pools_nothing_embeds_only_if_told_how(model_path, pooling, offered):
    with start(options(model_path, embeddings=True, pooling=pooling)) as process:
        with LlamaClient(f"http://127.0.0.1:{ready_port(process)}") as client:
            assert client.offers_embeddings() is offered
        process.kill()


def test_it_ends_when_its_stdin_does(child):
    ready_port(child)
    child.stdin.close()
    assert child.wait(timeout=10) == 0


def test_it_ends_with_sigterm_and_not_with_sigint(child):
    ready_port(child)
    child.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=0.3)
    child.terminate()
    assert child.wait(timeout=10) == -signal.SIGTERM


def test_it_ends_while_it_still_loads(child):
    child.stdin.close()
    assert child.wait(timeout=10) == 0


def test_a_model_it_cannot_load_is_exit_status_1_without_a_traceback(tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"not a model")
    with start(options(path)) as process:
        assert process.stderr is not None
        log = process.stderr.read()
        assert process.wait(timeout=30) == 1
    assert b"failed to load model" in log
    assert b"Traceback" not in log


def test_importing_it_loads_no_third_party_module():
    code = (
        "import sys; before = set(sys.modules); import llamatelemetry.llama.embedded;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['llamatelemetry']"
