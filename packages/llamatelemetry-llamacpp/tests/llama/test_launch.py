from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.llama import child
from llamatelemetry.llama.launch import LaunchOptions, explain_exit, launch_command, launch_environment
from llamatelemetry.llama.runtime import Runtime

BINARY = Runtime(kind="binary", location="/opt/llama-server", origin="PATH")
EMBEDDED = Runtime(kind="embedded", location="/somewhere", origin="xllamacpp")


def options(**changes) -> LaunchOptions:
    return LaunchOptions(
        **{
            "model": Path("/models/a b.gguf"),
            "alias": "a b",
            "slots": 3,
            "context_length": 512,
            "threads": 2,
            **changes,
        }
    )


def test_an_executable_is_told_everything_by_flags_and_tied_to_this_process():
    command = launch_command(BINARY, options(gpu_layers=9, extra_args=("--flash-attn", "on")), 8081)
    start = command.index("/opt/llama-server")
    assert command[start - 1] == str(os.getpid())
    assert command[start - 2] == child.__file__
    flags = command[start + 1 :]
    assert flags[-2:] == ["--flash-attn", "on"]
    told = dict(zip(flags[0::2], flags[1::2], strict=False))
    assert told["--model"] == "/models/a b.gguf"
    assert told["--host"] == "127.0.0.1"
    assert told["--port"] == "8081"
    assert told["--ctx-size"] == str(3 * 512)
    assert told["--parallel"] == "3"
    assert told["--threads"] == "2"
    assert told["--n-gpu-layers"] == "9"
    assert "--metrics" in flags


@pytest.mark.parametrize(
    ("decided", "flags"),
    [
        ({"gpu_layers": 9}, ["--n-gpu-layers", "9"]),
        ({"embeddings": True}, ["--embeddings"]),
        ({"pooling": "last"}, ["--pooling", "last"]),
        ({"batch": 512}, ["--batch-size", "512", "--ubatch-size", "512"]),
        ({"kv_unified": True}, ["--kv-unified"]),
        ({"kv_unified": False}, ["--no-kv-unified"]),
        ({"cache_ram_mib": 0}, ["--cache-ram", "0"]),
    ],
)
def test_what_is_not_decided_is_llama_cpps_choice(decided, flags):
    plain = launch_command(BINARY, options(), 1)
    assert sorted(launch_command(BINARY, options(**decided), 1)) == sorted([*plain, *flags])


def test_the_embedded_runtime_is_told_everything_by_json():
    command = launch_command(EMBEDDED, options(embeddings=True, pooling="last", batch=64, kv_unified=False), 0)
    assert command[:4] == [sys.executable, "-P", "-m", "llamatelemetry.llama.embedded"]
    assert json.loads(command[4]) == {
        "parent_pid": os.getpid(),
        "model": "/models/a b.gguf",
        "alias": "a b",
        "port": 0,
        "context_total": 3 * 512,
        "slots": 3,
        "threads": 2,
        "gpu_layers": None,
        "embeddings": True,
        "pooling": "last",
        "batch": 64,
        "kv_unified": False,
        "cache_ram_mib": None,
    }


def test_extra_arguments_need_an_executable_to_take_them():
    with pytest.raises(InvalidValueError, match="extra_args"):
        launch_command(EMBEDDED, options(extra_args=("--flash-attn",)), 0)


def test_the_child_imports_from_where_we_do(monkeypatch):
    monkeypatch.setattr(sys, "path", ["", "/planted", *sys.path])
    path = launch_environment(EMBEDDED, None)["PYTHONPATH"].split(os.pathsep)
    assert path[:2] == [str(Path.cwd()), "/planted"]


def test_the_child_of_an_application_that_is_instrumented_without_code_is_not(monkeypatch):
    hook = "/site-packages/opentelemetry/instrumentation/auto_instrumentation"
    monkeypatch.setattr(sys, "path", [hook, "/planted"])
    monkeypatch.setenv("PYTHONPATH", hook)
    assert launch_environment(EMBEDDED, None)["PYTHONPATH"] == "/planted"


def test_the_child_sees_the_gpus_it_was_given_counted_as_nvml_counts_them():
    told = launch_environment(EMBEDDED, ("1", "GPU-a"))
    assert (told["CUDA_VISIBLE_DEVICES"], told["CUDA_DEVICE_ORDER"]) == ("1,GPU-a", "PCI_BUS_ID")
    assert launch_environment(EMBEDDED, ())["CUDA_VISIBLE_DEVICES"] == ""


def test_the_child_sees_the_gpus_we_see_if_nobody_says(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert launch_environment(EMBEDDED, None)["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(
    ("returncode", "log", "says"),
    [
        (-signal.SIGILL, (), "avx2"),
        (-signal.SIGKILL, (), "memory"),
        (-signal.SIGTERM, (), "something else"),
        (-signal.SIGSEGV, (), "SIGSEGV"),
        (-250, (), "signal 250"),
        (child.EXEC_FAILED, ("x cannot be executed: Exec format error",), "LLAMA_SERVER_BIN"),
        (1, ("ImportError: libgomp.so.1: cannot open shared object file",), "apt-get install libgomp1"),
        (1, ("ModuleNotFoundError: No module named 'xllamacpp'",), "pip install"),
        (1, ("failed to load model",), "status 1"),
    ],
)
def test_an_end_is_explained(returncode, log, says):
    assert says in explain_exit(returncode, log)
