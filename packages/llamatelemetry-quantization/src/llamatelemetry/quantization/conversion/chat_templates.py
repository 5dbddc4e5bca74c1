"""The chat templates of a model, from wherever its version of transformers kept them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.conversion.configurations import MOST_BYTES, read_configuration
from llamatelemetry.quantization.conversion.gguf_head import Value
from llamatelemetry.quantization.conversion.vocabulary import encoded
from llamatelemetry.untrusted.files import read_bounded

__all__ = ["chat_template_keys"]

_DEFAULT: Final = "default"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_TEMPLATES: Final = 64


def chat_template_keys(folder: Path, settings: Mapping[str, Any]) -> dict[str, Value]:
    """Keys of the chat templates, without ``tokenizer.`` before them.

    A file of its own goes before ``tokenizer_config.json``, as in transformers.

    Args:
        folder: The checkpoint.
        settings: What ``tokenizer_config.json`` says.

    Raises:
        ModelFileError: A template is no text, or too large.
    """
    templates = _of_files(folder) or _of_settings(folder / "tokenizer_config.json", settings.get("chat_template"))
    for text in templates.values():
        encoded(folder, text)
    keys: dict[str, Value] = {}
    default = templates.pop(_DEFAULT, None)
    if default is not None:
        keys["chat_template"] = default
    if templates:
        keys["chat_templates"] = [name.encode() for name in sorted(templates)]
        keys |= {f"chat_template.{name}": templates[name] for name in sorted(templates)}
    return keys


def _of_files(folder: Path) -> dict[str, str]:
    jinja, old = folder / "chat_template.jinja", folder / "chat_template.json"
    if jinja.exists():
        more = sorted((folder / "additional_chat_templates").glob("*.jinja"))[:_MOST_TEMPLATES]
        return {_DEFAULT: _text(jinja)} | {path.stem: _text(path) for path in more if _NAME.fullmatch(path.stem)}
    if old.exists():
        return _of_settings(old, read_configuration(old).get("chat_template"))
    return {}


def _text(path: Path) -> str:
    try:
        return read_bounded(path, MOST_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(path, f"is not UTF-8 at byte {error.start}") from error


def _of_settings(path: Path, entry: Any) -> dict[str, str]:
    """Either one template, or some with their names."""
    if entry is None:
        return {}
    if isinstance(entry, str):
        return {_DEFAULT: entry}
    found = {}
    for each in entry[:_MOST_TEMPLATES] if isinstance(entry, list) else [entry]:
        match each:
            case {"name": str() as name, "template": str() as template} if _NAME.fullmatch(name):
                found[name] = template
            case _:
                raise ModelFileError(path, "has a chat_template that is neither a text nor a list of named texts")
    return found
