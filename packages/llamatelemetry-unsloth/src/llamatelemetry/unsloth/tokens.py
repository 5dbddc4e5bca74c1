"""Examples as tokens, and batches of them as tensors."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.unsloth.dataset import Example
from llamatelemetry.unsloth.failures import first_line

__all__ = ["IGNORED", "TokenizedExamples", "collator"]

IGNORED: Final = -100
"""The label of a token that is not learned, in torch's words."""


class TokenizedExamples:
    """Examples as a trainer takes them: token ids and labels, four bytes each.

    Args:
        examples: The examples.
        tokenizer: The model's.
        sequence_length: Tokens that an example may have; the end of what is longer is cut off.

    Raises:
        InvalidValueError: There is no example of which anything can be learned, or one cannot be made tokens.

    Attributes:
        cut: How many were too long.
        dropped: How many were left out, because their prompt alone is too long.
    """

    def __init__(self, examples: Iterable[Example], tokenizer: Any, *, sequence_length: int) -> None:
        self.cut: int = 0
        self.dropped: int = 0
        self._rows: list[tuple[array[int], int]] = []
        endings = _Endings(tokenizer)
        for example in examples:
            tokens, learned_from = _tokens(example, endings)
            self.cut += len(tokens) > sequence_length
            # The first token is never predicted, so that two are the fewest that teach anything.
            if min(len(tokens), sequence_length) > max(1, learned_from):
                self._rows.append((array("i", tokens[:sequence_length]), learned_from))
            else:
                self.dropped += 1
        if not self._rows:
            fix = "give at least one example of two tokens; and where there are, a larger sequence_length"
            raise InvalidValueError("dataset", f"{self.dropped} examples, none to learn from", fix)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Sequence[int]]:
        tokens, learned_from = self._rows[index]
        return {"input_ids": tokens, "labels": array("i", [IGNORED] * learned_from) + tokens[learned_from:]}


def collator(torch: Any, padding: int) -> Any:
    """Makes batches: rows as long as the longest, with ``padding`` after what is shorter.

    Args:
        torch: torch.
        padding: A token to fill with; no model attends to it.
    """

    def collate(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
        longest = max(len(row["input_ids"]) for row in rows)
        filled: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
        for row in rows:
            missing = longest - len(row["input_ids"])
            filled["input_ids"].append([*row["input_ids"], *[padding] * missing])
            filled["labels"].append([*row["labels"], *[IGNORED] * missing])
            filled["attention_mask"].append([1] * (longest - missing) + [0] * missing)
        return {name: torch.tensor(values) for name, values in filled.items()}

    return collate


class _Endings:
    """Texts as tokens, with one mark of the end where there should be one, whether or not the tokenizer adds it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._end: list[int] = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self._added = bool(self._end) and list(tokenizer("a")["input_ids"])[-1:] == self._end

    def ended(self, text: str) -> list[int]:
        tokens = list(self.tokenizer(text)["input_ids"])
        return tokens if self._added else tokens + self._end

    def open(self, text: str) -> list[int]:
        tokens = list(self.tokenizer(text)["input_ids"])
        return tokens[:-1] if self._added else tokens

    def continued(self, text: str) -> list[int]:
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], *self._end]


def _tokens(example: Example, endings: _Endings) -> tuple[list[int], int]:
    """An example's tokens, and how many of them are not learned."""
    if example.messages:
        return _conversation(example, endings.tokenizer), 0
    if example.completion is None:
        return endings.ended(example.text), 0
    prompt = endings.open(example.text)
    return prompt + endings.continued(example.completion), len(prompt)


def _conversation(example: Example, tokenizer: Any) -> list[int]:
    where = f"dataset: line {example.line}: messages"
    if not tokenizer.chat_template:
        fix = "the base model has no chat template: give text, or prompt and completion"
        raise InvalidValueError(where, list(example.messages), fix)
    try:
        text = tokenizer.apply_chat_template(list(example.messages), tokenize=False)
    except Exception as error:  # A template may raise anything, its own refusals included.
        fix = f"the base model's chat template refuses it: {first_line(error)}"
        raise InvalidValueError(where, list(example.messages), fix) from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
