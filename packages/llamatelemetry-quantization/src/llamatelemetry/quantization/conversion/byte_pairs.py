"""Tokenizers that merge byte pairs, read from a ``tokenizer.json``: byte-level ones, and sentencepiece's as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.conversion.pre_tokenizers import pre_tokenizer_of
from llamatelemetry.quantization.conversion.vocabulary import Added, Kind, Vocabulary, added_tokens, encoded

__all__ = ["byte_level", "is_byte_level", "with_byte_fallback"]

_BYTES: Final = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_UNUSED_SCORE: Final = -10000.0
_ADDED_SCORE: Final = -1000.0


def is_byte_level(path: Path, tokenizer: Mapping[str, Any]) -> bool:
    """Whether bytes are tokens of their own from the start, as in GPT-2.

    Raises:
        ModelFileError: It merges no byte pairs at all.
    """
    model = tokenizer.get("model")
    # Old files do not name the type, and are told by what they have.
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        kind = model.get("type") if isinstance(model, dict) else None
        raise ModelFileError(path, f"is of a tokenizer of type {kind!r}; those of type 'BPE' are converted")
    return model.get("byte_fallback") is not True


def byte_level(path: Path, tokenizer: dict[str, Any], size: int) -> Vocabulary:
    """A byte-level tokenizer.

    Args:
        path: The file, for errors.
        tokenizer: What it says.
        size: Tokens that the model has.

    Raises:
        UnknownNameError: It cuts texts in a way that llama.cpp has no name for.
        ModelFileError: It is damaged, or of another model.
    """
    _check_normalizer(path, tokenizer)
    pre = pre_tokenizer_of(path, tokenizer)
    tokens, kinds = _tokens(path, tokenizer, size)
    # A space within a part would end it. The byte-level alphabet has another letter for it.
    merges = tuple(
        encoded(path, f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}") for left, right in _merges(path, tokenizer)
    )
    return Vocabulary(model="gpt2", pre=pre, tokens=tuple(tokens), kinds=tuple(kinds), merges=merges)


def with_byte_fallback(path: Path, tokenizer: dict[str, Any], size: int) -> Vocabulary:
    """A sentencepiece tokenizer that was saved as JSON, which has the order of merges in place of scores.

    Args:
        path: The file, for errors.
        tokenizer: What it says.
        size: Tokens that the model has.

    Raises:
        ModelFileError: It is damaged, or of another model.
    """
    prefix = _space_prefix(path, tokenizer)
    tokens, kinds = _tokens(path, tokenizer, size)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(_merges(path, tokenizer)):
        ranks.setdefault(left + right, rank)
    for text, number in _entries(path, tokenizer, size):
        if text in _BYTES and kinds[number] is Kind.NORMAL:
            kinds[number] = Kind.BYTE
        if text == tokenizer["model"].get("unk_token"):
            kinds[number] = Kind.UNKNOWN
    scores = [_UNUSED_SCORE if kind is Kind.UNUSED else _ADDED_SCORE for kind in kinds]
    for text, number in _entries(path, tokenizer, size):
        if kinds[number] in {Kind.NORMAL, Kind.BYTE, Kind.UNKNOWN}:
            scores[number] = -float(ranks.get(text, len(ranks)))
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        scores=tuple(scores),
        space_prefix=prefix,
    )


def _tokens(path: Path, tokenizer: Mapping[str, Any], size: int) -> tuple[list[bytes], list[Kind]]:
    tokens = [f"[PAD{number}]".encode() for number in range(size)]
    kinds = [Kind.UNUSED] * size
    taken: dict[int, str] = {}
    for text, number in _entries(path, tokenizer, size):
        if number in taken:
            raise ModelFileError(path, f"gives {text!r} and {taken[number]!r} the same id, {number}")
        taken[number] = text
        tokens[number], kinds[number] = encoded(path, text), Kind.NORMAL
    for added in added_tokens(path, tokenizer):
        _check_number(path, added, size)
        tokens[added.number], kinds[added.number] = added.stored(path), added.kind
    return tokens, kinds


def _entries(path: Path, tokenizer: Mapping[str, Any], size: int) -> Iterator[tuple[str, int]]:
    vocabulary = tokenizer["model"].get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ModelFileError(path, "has no vocab of tokens to their ids")
    for text, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < size:
            raise ModelFileError(path, f"gives {text[:100]!r} the id {number!r}, and its model has {size} tokens")
        yield text, number


def _check_number(path: Path, added: Added, size: int) -> None:
    if added.number >= size:
        raise ModelFileError(
            path,
            f"gives {added.content[:100]!r} the id {added.number}, and its model has {size} tokens: "
            "resize its embeddings, or take the tokenizer that belongs to it",
        )


def _merges(path: Path, tokenizer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    merges = tokenizer["model"].get("merges")
    if not isinstance(merges, list):
        raise ModelFileError(path, "its merges are no list")
    for merge in merges:
        match merge:
            case [str() as left, str() as right] if left and right:
                yield left, right
            case str() if merge.count(" ") == 1 and not merge.startswith(" ") and not merge.endswith(" "):
                left, _, right = merge.partition(" ")
                yield left, right
            case _:
                raise ModelFileError(path, f"has a merge that is no pair: {repr(merge)[:100]}")


def _steps(step: Any, inner: str) -> list[dict[str, Any]]:
    if not isinstance(step, dict):
        return []
    steps = step.get(inner) if step.get("type") == "Sequence" else [step]
    return [each for each in steps or [] if isinstance(each, dict)]


def _check_normalizer(path: Path, tokenizer: Mapping[str, Any]) -> None:
    for step in _steps(tokenizer.get("normalizer"), "normalizers"):
        # llama.cpp has no normalization, and texts are mostly NFC as they are.
        if step.get("type") != "NFC":
            raise ModelFileError(path, f"normalizes texts by {step.get('type')!r}, which llama.cpp does not")


def _space_prefix(path: Path, tokenizer: Mapping[str, Any]) -> bool:
    """Whether a text gets a space before it."""
    prefix = False
    for step in _steps(tokenizer.get("normalizer"), "normalizers"):
        match step:
            case {"type": "Prepend", "prepend": "▁"}:
                prefix = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                pass
            case _:
                raise ModelFileError(path, f"normalizes texts by {step.get('type')!r}, which llama.cpp does not")
    for step in _steps(tokenizer.get("pre_tokenizer"), "pretokenizers"):
        match step:
            case {"type": "Metaspace", "replacement": "▁"} if step.get("split") is not True:
                prefix = prefix or step.get("prepend_scheme", "always") != "never"
            case {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}:
                pass  # Of Gemma: there are no spaces left to split at.
            case _:
                raise ModelFileError(
                    path, f"cuts texts by {step.get('type')!r} before merging, which llama.cpp does not"
                )
    return prefix
