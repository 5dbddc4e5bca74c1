"""The embedded server: llama.cpp's own HTTP server, from xllamacpp, in a child process.

In a child, because a crash in native code would take the application with it. Started as
``python -m llamatelemetry.llama.embedded OPTIONS`` with one JSON object; tells its parent which port
it got by one line on stdout, logs on stderr, and ends when its stdin does. It imports nothing of
llamatelemetry but the tie to its parent.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from llamatelemetry.llama.child import die_with_parent, reset_signals

READY_PREFIX: Final = "llamatelemetry-ready "
"""Starts the one line of output that is not log; a JSON object follows."""

CPU_BATCH_PER_THREAD: Final = 64
"""Tokens a CPU computes at once, per thread, where llama.cpp would take up to 2048.

A server looks up from its work only between batches. With 64 on one thread, a prompt that nobody
waits for any more frees its slot within half a second instead of after the whole of it, and an
answer that streams beside a new prompt of 480 tokens pauses for 0.4 s instead of 2 s; reading a
prompt takes 2 to 5 % longer (``benchmarks/cpu_batch.py``). With 48 it took 21 % longer. A GPU
needs large batches.
"""

# llama.cpp's own n_ubatch: it computes a larger batch in pieces of this size anyway.
_MAX_CPU_BATCH: Final = 512
_POOLING_TYPES: Final = {"last": 3}  # llama.cpp, include/llama.h: LLAMA_POOLING_TYPE_LAST


def main(arguments: list[str]) -> int:
    """Serves until stdin ends or a signal comes; returns 1 if the server could not be started.

    Args:
        arguments: One JSON object with ``parent_pid``, ``model``, ``alias``, ``port``, ``context_total``,
            ``slots``, ``threads``, ``gpu_layers``, ``embeddings``, ``pooling``, ``batch``, ``kv_unified`` and
            ``cache_ram_mib``.
    """
    options = json.loads(arguments[0])
    die_with_parent(options["parent_pid"])
    reset_signals()
    # Ctrl-C is for the application, which then decides what happens to its server.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watcher = threading.Thread(target=_exit_when_stdin_ends, daemon=True)
    watcher.start()

    # By name: the package carries no types.
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    if options["batch"] is None:
        options["batch"] = default_batch(options["threads"], xllamacpp.get_device_info())
    configure(params, options)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        # The reason is in the log lines above it; a traceback would push them out of sight.
        sys.stderr.write(f"{error}\n")
        return 1
    port = urlsplit(server.listening_address).port
    # The newline before it ends whatever native code is writing, and one write keeps it whole.
    os.write(sys.stdout.fileno(), f"\n{READY_PREFIX}{json.dumps({'port': port})}\n".encode())
    watcher.join()
    return 0


def configure(params: Any, options: Mapping[str, Any]) -> None:
    """Writes our options into an ``xllamacpp.CommonParams``.

    Args:
        params: The object to fill.
        options: As :func:`main` takes them.

    Raises:
        RuntimeError: This xllamacpp calls something by a name that is not known here.
    """
    params.model.path = options["model"]
    _assign(params, "model_alias", {options["alias"]})
    _assign(params, "hostnames", ["127.0.0.1"], older="hostname")
    _assign(params, "port", options["port"])
    _assign(params, "n_ctx", options["context_total"])
    _assign(params, "n_parallel", options["slots"])
    _assign(params.cpuparams, "n_threads", options["threads"])
    _assign(params.cpuparams_batch, "n_threads", options["threads"])
    _assign(params, "endpoint_metrics", True)
    _assign(params, "endpoint_slots", True)
    if options["gpu_layers"] is not None:
        _assign(params, "n_gpu_layers", options["gpu_layers"])
    if options["embeddings"]:
        _assign(params, "embedding", True)
    if options["pooling"] is not None:
        _assign(params, "pooling_type", _POOLING_TYPES[options["pooling"]])
    if options["batch"] is not None:
        _assign(params, "n_batch", options["batch"])
        _assign(params, "n_ubatch", options["batch"])
    if options["kv_unified"] is not None:
        _assign(params, "kv_unified", options["kv_unified"])
    if options["cache_ram_mib"] is not None:
        _assign(params, "cache_ram_mib", options["cache_ram_mib"])


def default_batch(threads: int, devices: Iterable[Mapping[str, Any]]) -> int | None:
    """Tokens to compute at once where nobody decided it; None leaves it to llama.cpp.

    Args:
        threads: Threads that compute.
        devices: What llama.cpp can compute with, as ``xllamacpp.get_device_info()`` lists it.
    """
    if any("GPU" in device["type"].name for device in devices):
        return None
    return min(CPU_BATCH_PER_THREAD * threads, _MAX_CPU_BATCH)


def _assign(target: Any, name: str, value: Any, older: str | None = None) -> None:
    """Sets an attribute whose name and shape differ between releases of xllamacpp."""
    for candidate in (name, older):
        if candidate is not None and hasattr(target, candidate):
            if isinstance(getattr(target, candidate), str) and not isinstance(value, str):
                (value,) = value
            setattr(target, candidate, value)
            return
    raise RuntimeError(f"this version of xllamacpp has no {name!r} setting: install xllamacpp>=2026.10,<2027")


def _exit_when_stdin_ends() -> None:
    """The parent holds the other end and never writes: the end of stdin is the end of the parent."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    # Not sys.exit: the main thread may be deep in native code, and there is no state to save.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
