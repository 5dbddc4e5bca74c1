"""Which tokens begin, end and fill texts, and which of them a text gets by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llamatelemetry.quantization.conversion.gguf_head import Value
from llamatelemetry.quantization.conversion.vocabulary import Vocabulary

__all__ = ["special_token_keys"]

_KEYS: Final = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # Spelled so in the format.
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}


def special_token_keys(
    vocabulary: Vocabulary,
    *,
    tokenizer: Mapping[str, Any],
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
) -> dict[str, Value]:
    """Keys of the special tokens, without ``tokenizer.ggml.`` before them.

    What the tokenizer says goes before what the model's configuration says, which old checkpoints got wrong.

    Args:
        vocabulary: The tokens.
        tokenizer: What ``tokenizer.json`` says; nothing where there is none.
        settings: What ``tokenizer_config.json`` says; nothing where there is none.
        config: What ``config.json`` says.
    """
    numbers: dict[bytes, int] = {}
    for number, token in enumerate(vocabulary.tokens):
        numbers.setdefault(token, number)
    found: dict[str, int] = {}
    for name in _KEYS:
        said = _of_text(settings.get(f"{name}_token"), numbers)
        if said is None:
            said = _of_number(config.get(f"{name}_token_id"), len(vocabulary.tokens))
        if said is not None:
            found[name] = said
    keys: dict[str, Value] = {_KEYS[name]: number for name, number in found.items()}
    first, last = _ends(tokenizer, numbers)
    begins = settings.get("add_bos_token")
    if not isinstance(begins, bool):
        begins = first is not None if first is not None or _has_template(tokenizer) else vocabulary.model == "llama"
    ends = settings.get("add_eos_token")
    if not isinstance(ends, bool):
        ends = last is not None and last == found.get("eos")
    if first is not None:
        keys.setdefault("bos_token_id", first)
    keys["add_bos_token"] = begins and "bos_token_id" in keys
    keys["add_eos_token"] = ends and "eos_token_id" in keys
    if vocabulary.space_prefix is not None:
        keys["add_space_prefix"] = vocabulary.space_prefix
    return keys


def _of_text(entry: Any, numbers: Mapping[bytes, int]) -> int | None:
    text = entry.get("content") if isinstance(entry, dict) else entry
    return numbers.get(text.encode(errors="replace")) if isinstance(text, str) else None


def _of_number(entry: Any, size: int) -> int | None:
    """Some models end in several ways: the first is the usual one, and llama.cpp knows others by their texts."""
    number = entry[0] if isinstance(entry, list) and entry else entry
    return number if type(number) is int and 0 <= number < size else None


def _templates(tokenizer: Mapping[str, Any]) -> list[Any]:
    processor = tokenizer.get("post_processor")
    if not isinstance(processor, dict):
        return []
    steps = processor.get("processors") if processor.get("type") == "Sequence" else [processor]
    steps = steps if isinstance(steps, list) else []
    return [step for step in steps if isinstance(step, dict) and step.get("type") == "TemplateProcessing"]


def _has_template(tokenizer: Mapping[str, Any]) -> bool:
    return bool(_templates(tokenizer))


def _ends(tokenizer: Mapping[str, Any], numbers: Mapping[bytes, int]) -> tuple[int | None, int | None]:
    """The tokens that a text alone gets before and after it."""
    first = last = None
    for template in _templates(tokenizer):
        single = template.get("single")
        pieces = single if isinstance(single, list) and len(single) > 1 else [None]
        first, last = _mark(pieces[0], numbers, first), _mark(pieces[-1], numbers, last)
    return first, last


def _mark(piece: Any, numbers: Mapping[bytes, int], default: int | None) -> int | None:
    match piece:
        case {"SpecialToken": {"id": str() as text}}:
            return numbers.get(text.encode(errors="replace"), default)
        case _:
            return default
