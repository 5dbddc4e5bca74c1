"""What ``llamatelemetry doctor`` says of llama.cpp: what would run a model, and what stands in its way."""

from __future__ import annotations

import ctypes

from llamatelemetry.errors import ConfigurationError, MissingDependencyError
from llamatelemetry.llama.cpu import inference_threads, missing_features
from llamatelemetry.llama.model_files import DEMO_FILE, DEMO_INSTALL_COMMAND, find_demo_model
from llamatelemetry.llama.runtime import BINARY_VARIABLE, Runtime, binary_version, resolve_runtime
from llamatelemetry.plugins import Check, CheckState


def checks() -> list[Check]:
    """Looks at the runtime, what it needs of this machine, and the demo model."""
    found = []
    try:
        runtime = resolve_runtime()
    except ConfigurationError as error:
        found.append(Check(name="runtime", state=CheckState.ERROR, detail=str(error), fix=f"unset {BINARY_VARIABLE}"))
    except MissingDependencyError as error:
        found.append(Check(name="runtime", state=CheckState.ERROR, detail=str(error), fix=error.command))
    else:
        found.append(_runtime(runtime))
        if runtime.kind == "embedded":
            found += [_cpu(), _openmp()]
    return [*found, _demo_model()]


def _runtime(runtime: Runtime) -> Check:
    if runtime.kind == "embedded":
        return Check(name="runtime", state=CheckState.OK, detail=f"embedded, xllamacpp {runtime.version}")
    where = f"{runtime.location} (from {runtime.origin})"
    version = binary_version(runtime.location)
    if version is None:
        return Check(
            name="runtime",
            state=CheckState.WARNING,
            detail=f"{where} does not tell its version",
            fix=f"{runtime.location} --version",
        )
    return Check(name="runtime", state=CheckState.OK, detail=f"{where}, version {version}")


def _cpu() -> Check:
    missing = missing_features()
    if missing:
        return Check(
            name="cpu",
            state=CheckState.ERROR,
            detail=f"lacks {', '.join(missing)}, which the embedded runtime needs",
            fix=f"build llama-server on this machine and give its path in {BINARY_VARIABLE}",
        )
    threads = inference_threads()
    return Check(name="cpu", state=CheckState.OK, detail=f"has what is needed; {threads} thread(s) would be used")


def _openmp() -> Check:
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError as error:
        return Check(name="openmp", state=CheckState.ERROR, detail=str(error), fix="apt-get install libgomp1")
    return Check(name="openmp", state=CheckState.OK, detail="libgomp.so.1 is there")


def _demo_model() -> Check:
    path = find_demo_model()
    if path is None:
        return Check(
            name="demo model",
            state=CheckState.WARNING,
            detail=f"{DEMO_FILE} is not installed; only `llamatelemetry demo` needs it",
            fix=DEMO_INSTALL_COMMAND,
        )
    return Check(name="demo model", state=CheckState.OK, detail=str(path))
