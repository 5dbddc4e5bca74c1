"""How texts are cut before byte pairs are merged, told from a ``tokenizer.json``.

llama.cpp has a name for each way that it knows. A file with the wrong one loads, and answers a little worse;
so one whose way is not known here is not converted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import UnknownNameError

__all__ = ["PRE_TOKENIZERS", "pre_tokenizer_of"]

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD: Final = r"[^\r\n\p{L}\p{N}]?"
_LLAMA3: Final = rf"{_CONTRACTIONS}|{_WORD}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"
_QWEN2: Final = rf"{_CONTRACTIONS}|{_WORD}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"
_TEKKEN: Final = rf"{_WORD}{_UPPER}*{_LOWER}+|{_WORD}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
_GPT4O: Final = (
    rf"{_WORD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_WORD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
)

# Steps of the pre-tokenizer, and whether whole words are looked up before byte pairs are merged.
_KNOWN: Final = {
    (("words",), False): "gpt-2",
    (("digits", "words"), False): "smollm",
    ((_LLAMA3, "bytes"), True): "llama-bpe",
    ((_LLAMA3, "bytes"), False): "smaug-bpe",
    ((_QWEN2, "bytes"), False): "qwen2",
    ((_TEKKEN, "bytes"), True): "tekken",
    ((_GPT4O, "bytes"), False): "gpt-4o",
}

PRE_TOKENIZERS: Final = tuple(sorted(_KNOWN.values()))
"""Names that llama.cpp has for the pre-tokenizers that are known here."""
_MOST_SHOWN: Final = 300


def pre_tokenizer_of(path: Path, tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for the pre-tokenizer of a byte-level ``tokenizer.json``.

    Args:
        path: The file, for errors.
        tokenizer: What it says.

    Raises:
        UnknownNameError: It is none of those that are known.
    """
    found = tokenizer.get("pre_tokenizer")
    steps = found.get("pretokenizers") if isinstance(found, dict) and found.get("type") == "Sequence" else [found]
    steps = steps if isinstance(steps, list) else [steps]
    words = tuple(_step(step) for step in steps)
    model = tokenizer.get("model")
    whole_words = isinstance(model, dict) and model.get("ignore_merges") is True
    name = _KNOWN.get((words, whole_words))
    if name is None:
        shown = " then ".join(words)
        raise UnknownNameError(
            "known pre-tokenizer",
            shown if len(shown) <= _MOST_SHOWN else shown[: _MOST_SHOWN - 3] + "...",
            PRE_TOKENIZERS,
            f"{path} has it; a model with it cannot be converted",
        )
    return name


def _step(step: Any) -> str:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False} if step.get("use_regex", True) is True:
            return "words"
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}:
            return "bytes"
        case {"type": "Digits", "individual_digits": True}:
            return "digits"
        case {"type": "Split", "pattern": {"Regex": str() as pattern}, "behavior": "Isolated"} if not step.get(
            "invert"
        ):
            return pattern
        case {"type": str() as kind}:
            return f"{kind} ({', '.join(f'{key}={value!r}' for key, value in sorted(step.items()) if key != 'type')})"
        case _:
            return "none"
