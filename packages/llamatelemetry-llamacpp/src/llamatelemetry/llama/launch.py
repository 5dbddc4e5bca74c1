"""How a server is started, and what its end means: command lines in, explanations out.

Two runtimes take the same options: an executable takes flags, the embedded one takes JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.llama import child
from llamatelemetry.llama.cpu import X86_FEATURES
from llamatelemetry.llama.runtime import INSTALL_COMMAND, Runtime

HOST: Final = "127.0.0.1"
"""The only address our servers bind: they have no password."""

_AUTO_INSTRUMENTATION: Final = "opentelemetry/instrumentation/auto_instrumentation"
_LOG_CLUES: Final = {
    "libgomp.so.1": "the OpenMP library libgomp.so.1 is missing: run apt-get install libgomp1",
    "No module named 'xllamacpp'": f"xllamacpp is not installed: run {INSTALL_COMMAND}",
}

_EXITS: Final = {
    child.EXEC_FAILED: "the executable cannot be run on this machine: check LLAMA_SERVER_BIN",
    -signal.SIGTERM: "it was told to end (SIGTERM) by something else",
    -signal.SIGILL: (
        f"it hit an instruction this CPU lacks (SIGILL); the embedded runtime needs {', '.join(X86_FEATURES)}: "
        "build llama-server on this machine and give its path in LLAMA_SERVER_BIN"
    ),
    -signal.SIGKILL: (
        "it was killed (SIGKILL), most often by the kernel for lack of memory: "
        "try a smaller model, a smaller context or fewer slots"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """What a server is told when it starts.

    Attributes:
        model: The GGUF file.
        alias: Name it gives the model.
        slots: Requests it runs at once.
        context_length: Tokens one slot can hold.
        threads: CPU threads it computes with.
        gpu_layers: Layers kept on the GPU; None lets llama.cpp decide.
        embeddings: Offers embeddings beside generation.
        pooling: How one embedding is made of many tokens; None leaves it to the model.
        batch: Tokens computed at once; None leaves it to the runtime.
        kv_unified: The slots share one KV cache; None leaves it to the runtime.
        cache_ram_mib: Memory for prompts that have left their slots; None leaves it to the runtime.
        extra_args: More command-line arguments, for an executable.
    """

    model: Path
    alias: str
    slots: int
    context_length: int
    threads: int
    gpu_layers: int | None = None
    embeddings: bool = False
    pooling: str | None = None
    batch: int | None = None
    kv_unified: bool | None = None
    cache_ram_mib: int | None = None
    extra_args: tuple[str, ...] = ()

    @property
    def context_total(self) -> int:
        """Tokens that all slots hold together."""
        return self.context_length * self.slots


def launch_command(runtime: Runtime, options: LaunchOptions, port: int) -> list[str]:
    """The command line that starts ``runtime`` as a child of this process, tied to its life.

    Args:
        runtime: An executable, or the embedded runtime.
        options: What to tell it.
        port: Port to bind; 0 lets the embedded runtime take a free one.

    Raises:
        InvalidValueError: ``extra_args`` are given and there is no executable to take them.
    """
    if runtime.kind == "binary":
        # -I -S: nothing but the standard library, and nothing that our environment would add to it.
        tied = [sys.executable, "-I", "-S", child.__file__, str(os.getpid())]
        return [*tied, runtime.location, *_flags(options, port), *options.extra_args]
    if options.extra_args:
        raise InvalidValueError(
            "extra_args",
            options.extra_args,
            "the embedded runtime has no command line; give a llama-server executable in LLAMA_SERVER_BIN",
        )
    described = {
        "parent_pid": os.getpid(),
        "model": str(options.model),
        "alias": options.alias,
        "port": port,
        "context_total": options.context_total,
        "slots": options.slots,
        "threads": options.threads,
        "gpu_layers": options.gpu_layers,
        "embeddings": options.embeddings,
        "pooling": options.pooling,
        "batch": options.batch,
        "kv_unified": options.kv_unified,
        "cache_ram_mib": options.cache_ram_mib,
    }
    # -P: a json.py in the current folder must not stand in for the standard library's.
    return [sys.executable, "-P", "-m", "llamatelemetry.llama.embedded", json.dumps(described)]


def launch_environment(runtime: Runtime, gpus: Sequence[str] | None) -> dict[str, str]:
    """Our environment, with what the child sees changed.

    Args:
        runtime: What is started; the embedded one finds the packages that we found.
        gpus: GPUs it may use, as UUIDs or as ``nvidia-smi`` counts them; None leaves that as it is here.
    """
    environ = dict(os.environ)
    if runtime.kind == "embedded":
        entries = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - text
        # The folder by which opentelemetry-instrument gets into each child: this one has nothing to tell.
        environ["PYTHONPATH"] = os.pathsep.join(each for each in entries if not each.endswith(_AUTO_INSTRUMENTATION))
    if gpus is not None:
        # CUDA counts the fastest GPU first unless it is told to count as NVML does.
        environ |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return environ


def _flags(options: LaunchOptions, port: int) -> list[str]:
    flags = {
        "--model": str(options.model),
        "--alias": options.alias,
        "--host": HOST,
        "--port": str(port),
        "--ctx-size": str(options.context_total),
        "--parallel": str(options.slots),
        "--threads": str(options.threads),
    }
    if options.gpu_layers is not None:
        flags["--n-gpu-layers"] = str(options.gpu_layers)
    if options.pooling is not None:
        flags["--pooling"] = options.pooling
    if options.batch is not None:
        flags |= {"--batch-size": str(options.batch), "--ubatch-size": str(options.batch)}
    if options.cache_ram_mib is not None:
        flags["--cache-ram"] = str(options.cache_ram_mib)
    switches = ["--metrics"]
    if options.embeddings:
        switches.append("--embeddings")
    if options.kv_unified is not None:
        switches.append("--kv-unified" if options.kv_unified else "--no-kv-unified")
    return [*(text for flag in flags.items() for text in flag), *switches]


def explain_exit(returncode: int | None, log_tail: tuple[str, ...]) -> str:
    """Says in words why a server ended, and what to do about it.

    Args:
        returncode: Its exit status, negative for a signal; None when it is not known.
        log_tail: Its last log lines.
    """
    log = "\n".join(log_tail)
    for clue, meaning in _LOG_CLUES.items():
        if clue in log:
            return meaning
    if returncode in _EXITS:
        return _EXITS[returncode]
    if returncode is not None and returncode < 0:
        return f"it crashed ({_signal_name(-returncode)}): the log may say more; a damaged model file can cause this"
    return f"it exited with status {returncode}; its log says why"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
