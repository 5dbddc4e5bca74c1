"""What a model of transformers is, in the words that every backend describes its model with.

Counting parameters walks the whole model, so each is described once and remembered for as long as it
lives, or until it has been moved, cast or resized, or its process forked.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.transformers.cuda_names import device_names

PROVIDER: Final = "transformers"
"""Value of ``gen_ai.provider.name``."""

_SNAPSHOT: Final = "models--"
_UNLIMITED: Final = 2**31
"""Lengths past it mean that there is none: tokenizers and configurations have such numbers."""

_known: weakref.WeakKeyDictionary[Any, tuple[weakref.ref[Any], tuple[Any, ...], ModelInfo]] = (
    weakref.WeakKeyDictionary()
)


def describe(model: Any) -> ModelInfo:
    """Describes a model.

    Args:
        model: A ``PreTrainedModel``, or what behaves like one.
    """
    known = _known.get(model)
    if known is not None:
        some_parameter, state, info = known
        parameter = some_parameter()
        # Moving a model, or giving it more tokens, changes its parameters in place.
        if parameter is not None and _state(parameter) == state:
            return info
    parameter = next(iter(model.parameters()), None)
    info = _describe(model, parameter)
    if parameter is not None:
        _known[model] = (weakref.ref(parameter), _state(parameter), info)
    return info


def model_name(model: Any) -> str:
    """The name a model was loaded by, without the folders that lead to it; else that of its class."""
    config = getattr(model, "config", None)
    name = getattr(config, "_name_or_path", None) or getattr(model, "name_or_path", None)
    return _public_name(name) if isinstance(name, str) and name else type(model).__name__


def _describe(model: Any, parameter: Any) -> ModelInfo:
    config = model.config
    # Of models with a text encoder of its own, such as MusicGen, it is the decoder that generates.
    text_config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    length = getattr(text_config, "max_position_embeddings", None)
    return ModelInfo(
        model=model_name(model),
        provider=PROVIDER,
        in_process=True,
        architecture=getattr(config, "model_type", None) or None,
        quantization=_quantization(model, parameter),
        parameters=_parameters(model),
        context_length=length if isinstance(length, int) and 0 < length < _UNLIMITED else None,
        pid=os.getpid(),
        gpus=_gpus(model, parameter),
    )


def _state(parameter: Any) -> tuple[Any, ...]:
    return parameter.device, parameter.dtype, parameter.shape, os.getpid()


def _public_name(name: str) -> str:
    path = Path(name)
    for part in path.parts:
        if part.startswith(_SNAPSHOT):  # A folder of the hub's cache: models--owner--name/snapshots/revision.
            return part.removeprefix(_SNAPSHOT).replace("--", "/")
    # At most one slash is the hub's owner/name, unless a folder is really there.
    is_local = path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2 or path.is_dir()
    return (path.name or path.resolve().name) if is_local else name


def _parameters(model: Any) -> int | None:
    # transformers' own count knows those whose weights are packed, several in a byte.
    count = getattr(model, "num_parameters", None)
    counted = count() if callable(count) else sum(parameter.numel() for parameter in model.parameters())
    return int(counted) or None


def _quantization(model: Any, parameter: Any) -> str | None:
    """Method and number format, as read of a checkpoint's files, or the type of the weights."""
    dtype = None if parameter is None else str(parameter.dtype).removeprefix("torch.")
    told = getattr(model.config, "quantization_config", None)
    if told is None:
        return dtype
    details = told if isinstance(told, Mapping) else told.to_dict()
    method = details.get("quant_method")
    method = str(getattr(method, "value", method) or "quantized")
    if method == "gguf" and all(one.dtype.is_floating_point for one in model.parameters()):
        return dtype  # Unpacked when it was loaded.
    if details.get("load_in_4bit"):
        return f"bitsandbytes {details.get('bnb_4bit_quant_type') or 'fp4'}"
    if details.get("load_in_8bit"):
        return "bitsandbytes int8"
    bits = details.get("bits")
    return f"{method} int{bits}" if isinstance(bits, int) else method


def _gpus(model: Any, parameter: Any) -> tuple[str, ...] | None:
    """Names of the CUDA devices it is on; None where torch has no name for one of them."""
    placed = getattr(model, "hf_device_map", None)
    devices = list(placed.values()) if isinstance(placed, Mapping) else []
    if parameter is not None:
        devices.append(parameter.device)
    indices = sorted({index for device in devices if (index := _cuda_index(device)) is not None})
    names = [device_names(index) for index in indices]
    return tuple(name for each in names for name in each) if all(names) else None


def _cuda_index(device: Any) -> int | None:
    if isinstance(device, int):
        return device
    kind, _, index = str(device).partition(":")
    if kind != "cuda":
        return None
    return int(index) if index.isdigit() else 0
