"""A base model's folder, looked at before anything is loaded of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError, QuantizedBaseError
from llamatelemetry.untrusted.json_values import read_object

__all__ = ["check_checkpoint", "check_mergeable", "copy_tokenizer"]

_CONFIG: Final = "config.json"
_TOKENIZER: Final = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


def check_checkpoint(folder: Path) -> Mapping[str, Any]:
    """Holds a folder to be a checkpoint; gives its configuration.

    Raises:
        ModelFileError: It is none.
    """
    if not folder.is_dir():
        raise ModelFileError(folder, f"is no folder: a base model is one, with {_CONFIG}, safetensors and a tokenizer")
    return read_object(folder / _CONFIG)


def check_mergeable(folder: Path) -> None:
    """Holds a checkpoint to have weights that an adapter can be added to.

    Raises:
        ModelFileError: It is no checkpoint.
        QuantizedBaseError: Its weights are quantized.
    """
    told = check_checkpoint(folder).get("quantization_config")
    if told is None:
        return
    settings = told if isinstance(told, dict) else {}
    method = str(settings.get("quant_method", "some method"))[:40]
    bits = 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else settings.get("bits")
    raise QuantizedBaseError(folder, method, bits if type(bits) is int else None)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies a checkpoint's tokenizer as it is, byte for byte."""
    for name in _TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
