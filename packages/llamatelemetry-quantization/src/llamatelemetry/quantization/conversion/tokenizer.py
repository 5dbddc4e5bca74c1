"""The tokenizer of a checkpoint, as the keys of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.conversion.byte_pairs import byte_level, is_byte_level, with_byte_fallback
from llamatelemetry.quantization.conversion.chat_templates import chat_template_keys
from llamatelemetry.quantization.conversion.configurations import read_configuration
from llamatelemetry.quantization.conversion.gguf_head import Value
from llamatelemetry.quantization.conversion.sentencepiece_model import sentencepiece
from llamatelemetry.quantization.conversion.special_tokens import special_token_keys
from llamatelemetry.quantization.conversion.vocabulary import Added, Vocabulary, added_tokens
from llamatelemetry.untrusted.json_values import read_object

__all__ = ["tokenizer_keys"]

_MOST_BYTES: Final = 3 * 2**24
"""Of a ``tokenizer.json``; that of Gemma has 33 MB."""
_MOST_VALUES: Final = 2**22
"""In it; a vocabulary of 260,000 tokens with 510,000 merges, each a list of two, has 1.8 million."""


def tokenizer_keys(folder: Path, config: Mapping[str, Any], size: int) -> dict[str, Value]:
    """Everything that a file says of its tokenizer.

    Args:
        folder: The checkpoint.
        config: What its ``config.json`` says.
        size: Tokens that the model has.

    Raises:
        UnknownNameError: It cuts texts in a way that llama.cpp has no name for.
        ModelFileError: There is none, or it is damaged, of another model, or of a kind that is not converted.
    """
    path = folder / "tokenizer.json"
    tokenizer = read_object(path, most_bytes=_MOST_BYTES, most_values=_MOST_VALUES) if path.exists() else {}
    settings_path = folder / "tokenizer_config.json"
    settings = read_configuration(settings_path) if settings_path.exists() else {}
    vocabulary = _vocabulary(folder, path, tokenizer, settings, size)
    keys: dict[str, Value] = {
        "tokenizer.ggml.model": vocabulary.model,
        "tokenizer.ggml.pre": vocabulary.pre,
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in vocabulary.kinds],
    }
    if vocabulary.scores:
        keys["tokenizer.ggml.scores"] = vocabulary.scores
    if vocabulary.merges:
        keys["tokenizer.ggml.merges"] = vocabulary.merges
    special = special_token_keys(vocabulary, tokenizer=tokenizer, settings=settings, config=config)
    keys |= {f"tokenizer.ggml.{key}": value for key, value in special.items()}
    templates = chat_template_keys(folder, settings)
    return keys | {f"tokenizer.{key}": value for key, value in templates.items()}


def _vocabulary(
    folder: Path, path: Path, tokenizer: dict[str, Any], settings: Mapping[str, Any], size: int
) -> Vocabulary:
    if tokenizer and is_byte_level(path, tokenizer):
        return byte_level(path, tokenizer, size)
    model = folder / "tokenizer.model"
    if model.exists():
        return sentencepiece(model, size, _added(path, tokenizer, settings))
    if not tokenizer:
        raise ModelFileError(
            folder, "has neither tokenizer.json nor tokenizer.model: save the tokenizer beside the model"
        )
    return with_byte_fallback(path, tokenizer, size)


def _added(path: Path, tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Added, ...]:
    """Tokens added to a sentencepiece model, which itself does not know of them."""
    if tokenizer:
        return added_tokens(path, tokenizer)
    entries = settings.get("added_tokens_decoder")
    if not isinstance(entries, dict):
        return ()
    listed = [
        {**entry, "id": int(number)}
        for number, entry in entries.items()
        if isinstance(entry, dict) and number.isascii() and number.isdecimal() and len(number) < 10
    ]
    return added_tokens(path.with_name("tokenizer_config.json"), {"added_tokens": listed})
