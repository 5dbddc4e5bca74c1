"""Loads a model and its tokenizer, from this machine before any network, with errors that say what is wrong."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from llamatelemetry.errors import (
    BackendStartError,
    InvalidValueError,
    LlamatelemetryError,
    MissingDependencyError,
    ModelFileError,
)
from llamatelemetry.transformers.memory_errors import explained_out_of_memory, is_out_of_memory
from llamatelemetry.transformers.runtime import load_torch, load_transformers

_LESS_MEMORY: Final = "load it in a smaller dtype or quantized, take a smaller model, or free what else holds memory"


class Source(NamedTuple):
    """Where ``from_pretrained`` finds a model: its first argument, and what else it must be told."""

    name: str
    options: dict[str, Any]
    is_here: bool


def load_model(
    model: str | Path,
    *,
    device: Any = None,
    dtype: Any = None,
    attn: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Loads a model, ready to run.

    Args:
        model: A folder, a GGUF file, or a name on the hub.
        device: ``cuda``, ``cuda:1``, ``cpu`` and so on; ``auto`` spreads it over what there is. A GPU
            if there is one, when None.
        dtype: Type of its weights; that of the files when None.
        attn: Implementation of attention; transformers chooses when None.
        options: More arguments for ``from_pretrained``.

    Raises:
        MissingDependencyError: torch, transformers, or what this model needs is not installed.
        InvalidValueError: There is no such device or dtype.
        ModelFileError: It is not found, or its files cannot be read.
        OutOfMemoryError: It does not fit.
        BackendStartError: It cannot be loaded; says why.
    """
    transformers = load_transformers()
    place = device_of(device)
    source = _source_of(model)
    wanted: dict[str, Any] = {"dtype": dtype_of(dtype), **source.options, **(options or {})}
    if attn is not None:
        wanted["attn_implementation"] = attn
    if place == "auto":
        _require("accelerate", "device='auto'")
        wanted["device_map"] = "auto"

    def load(**where: Any) -> Any:
        kind = transformers.AutoModelForCausalLM
        if "gguf_file" not in wanted:
            known = ("revision", "token", "trust_remote_code", "cache_dir", "subfolder")
            told = {name: value for name, value in wanted.items() if name in known}
            config = transformers.AutoConfig.from_pretrained(source.name, **told, **where)
            if config.is_encoder_decoder:
                kind = transformers.AutoModelForSeq2SeqLM
        return kind.from_pretrained(source.name, **wanted, **where)

    with explained_out_of_memory(place, f"while {source.name} was loaded", _LESS_MEMORY):
        loaded = _from_here_first(source, load)
        if place not in ("auto", loaded.device):
            loaded = loaded.to(place)
    return loaded.eval()


def load_tokenizer(tokenizer: str | Path, options: Mapping[str, Any] | None = None) -> Any:
    """Loads a tokenizer from where a model is.

    Args:
        tokenizer: A folder, a GGUF file, or a name on the hub.
        options: More arguments for ``from_pretrained``.

    Raises:
        MissingDependencyError: torch, transformers, or what it needs is not installed.
        ModelFileError: There is none, or its files cannot be read.
        BackendStartError: It cannot be loaded; says why.
    """
    transformers = load_transformers()
    source = _source_of(tokenizer)
    wanted = {**source.options, **(options or {})}
    try:
        return _from_here_first(
            source, lambda **where: transformers.AutoTokenizer.from_pretrained(source.name, **wanted, **where)
        )
    except ModelFileError as error:
        if not source.is_here or source.options or _has_tokenizer(Path(source.name)):
            raise
        reason = "there is no tokenizer in this folder: save the model's beside it, or say where it is with tokenizer="
        raise ModelFileError(source.name, reason) from error


def device_of(device: Any) -> Any:
    """The ``torch.device`` that is meant, or ``auto``; a GPU if there is one, when None.

    Raises:
        InvalidValueError: There is no such device, or this torch cannot use it.
    """
    torch = load_torch()
    if isinstance(device, str) and device == "auto":
        return device
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except Exception as error:  # torch raises an AssertionError, a RuntimeError or an AttributeError
        raise InvalidValueError(
            "device", device, f"give cpu, or a device that torch {torch.__version__} has here ({_first_line(error)})"
        ) from error
    return place


def dtype_of(dtype: Any) -> Any:
    """The ``torch.dtype`` that is meant, or ``auto`` for None.

    Raises:
        InvalidValueError: torch has no such type.
    """
    torch = load_torch()
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InvalidValueError("dtype", dtype, "give float32, float16, bfloat16 or auto")
    return found


def _source_of(name: str | Path) -> Source:
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        _require("gguf", "reading a GGUF file with transformers")
        return Source(str(path.parent), {"gguf_file": path.name}, is_here=True)
    if path.is_dir():
        return Source(str(path), {}, is_here=True)
    if isinstance(name, Path) or path.is_absolute() or path.suffix == ".gguf" or str(name).startswith((".", "~")):
        raise ModelFileError(name, "there is no such folder, nor a GGUF file")
    return Source(str(name), {}, is_here=False)


def _from_here_first(source: Source, load: Callable[..., Any]) -> Any:
    """What is loaded of a source: without a network if it is on this machine, as it should be the second time."""
    try:
        return load(local_files_only=True)
    except OSError as error:
        if source.is_here:
            raise ModelFileError(source.name, _first_line(error)) from error
        missed = error
    except Exception as error:
        raise _explained(source, error) from error
    advice = f"download it where there is a network, with: hf download {source.name}"
    if _is_offline():
        reason = f"is no folder here and is not in Hugging Face's cache, and HF_HUB_OFFLINE is set: {advice}"
        raise ModelFileError(source.name, reason) from missed
    try:
        return load()
    except OSError as error:
        reason = f"is no folder here, is not in Hugging Face's cache and cannot be had now: {_first_line(error)}"
        raise ModelFileError(source.name, f"{reason} Else {advice}") from error
    except Exception as error:
        raise _explained(source, error) from error


def _explained(source: Source, error: Exception) -> Exception:
    """The error that a failed load is for the caller; memory that ran out is told apart by whoever called."""
    if isinstance(error, LlamatelemetryError) or is_out_of_memory(error):
        return error
    if isinstance(error, ValueError) or type(error).__name__ == "SafetensorError":
        return ModelFileError(source.name, _first_line(error))
    return BackendStartError(f"{source.name} cannot be loaded: {type(error).__name__}: {_first_line(error)}")


def _has_tokenizer(folder: Path) -> bool:
    """Whether there is a file that some tokenizer of transformers is made from."""
    return any(any(folder.glob(pattern)) for pattern in ("*tokenizer*", "*vocab*", "*.model"))


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _require(package: str, needed_for: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(needed_for, package, f"pip install {package}")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
