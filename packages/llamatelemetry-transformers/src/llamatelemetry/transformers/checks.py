"""What ``llamatelemetry doctor`` says of torch and transformers, without importing either: that takes seconds."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Final

from llamatelemetry.gpu.device import DriverState
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.plugins import Check, CheckState
from llamatelemetry.transformers.runtime import (
    INSTALL_COMMAND,
    MIN_CONTINUOUS,
    MIN_TORCH,
    MIN_TRANSFORMERS,
    installed_version,
    too_old,
)

_CUDA_TORCH_COMMAND: Final = "pip install --force-reinstall torch"


def checks() -> list[Check]:
    """Looks at both, at what torch was built for, and at whether models can be batched."""
    return [_torch(), _transformers()]


def _torch() -> Check:
    found = _installed("torch", MIN_TORCH)
    if isinstance(found, Check):
        return found
    cuda = cuda_of_torch()
    if cuda:
        return Check(name="torch", state=CheckState.OK, detail=f"torch {found}, built for CUDA {cuda}")
    detail = f"torch {found}, built without CUDA"
    if _has_gpu():
        fix = _CUDA_TORCH_COMMAND
        return Check(name="torch", state=CheckState.WARNING, detail=f"{detail}: it leaves the GPU here alone", fix=fix)
    return Check(name="torch", state=CheckState.OK, detail=detail)


def _transformers() -> Check:
    found = _installed("transformers", MIN_TRANSFORMERS)
    if isinstance(found, Check):
        return found
    old = too_old("transformers", found, MIN_CONTINUOUS)
    if old:
        detail = f"{old} for continuous batching; models run one request at a time"
        fix = "pip install --upgrade transformers"
        return Check(name="transformers", state=CheckState.WARNING, detail=detail, fix=fix)
    return Check(name="transformers", state=CheckState.OK, detail=f"transformers {found}")


def _installed(name: str, least: tuple[int, int]) -> str | Check:
    """The version of a distribution that is there and new enough, or what is to be said of it."""
    found = installed_version(name)
    if found is None:
        # That is as good as any installation: sizes of checkpoints are read without either.
        detail = f"{name} is not installed; to run a Hugging Face model: {INSTALL_COMMAND}"
        return Check(name=name, state=CheckState.OK, detail=detail)
    old = too_old(name, found, least)
    return Check(name=name, state=CheckState.ERROR, detail=old, fix=INSTALL_COMMAND) if old else found


def cuda_of_torch() -> str | None:
    """The CUDA version that the installed torch was built for, read from its ``version.py``; None for no CUDA."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        tree = ast.parse((Path(spec.origin).parent / "version.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None
    for node in tree.body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        value = getattr(node, "value", None)
        if any(isinstance(each, ast.Name) and each.id == "cuda" for each in targets) and isinstance(
            value, ast.Constant
        ):
            return None if value.value is None else str(value.value)
    return None


def _has_gpu() -> bool:
    nvml = Nvml()
    try:
        return nvml.open().state is DriverState.READY
    finally:
        nvml.close()
