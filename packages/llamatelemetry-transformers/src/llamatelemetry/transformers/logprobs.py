"""How likely a model found the tokens of an answer, and what it would have said instead, where somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self


class Logprobs:
    """Log-probabilities of one answer's tokens, taken while they are drawn. One thread writes.

    They are the model's own: of its logits as they come, before penalties, temperature and filters.

    Args:
        top: Likeliest candidates to keep beside each token.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._noted: list[tuple[int, float, list[int], list[float]]] = []

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        """Itself: a request that loses its place in a batch begins anew as a copy, and is read from here."""
        return self

    def note(self, logits: Any, token: int) -> None:
        """Takes down the next token.

        Args:
            logits: Of its position, a tensor of one dimension.
            token: What was drawn.
        """
        known = logits.float().log_softmax(-1)
        values, tokens = known.topk(min(self._top, known.shape[-1]))
        self._noted.append((token, float(known[token]), tokens.tolist(), values.tolist()))

    def told(self, count: int, decode: Callable[[list[int]], str]) -> tuple[dict[str, Any], ...]:
        """The first tokens, in the shape of OpenAI's ``logprobs.content``, with the ids beside.

        Args:
            count: Tokens that the answer has.
            decode: The tokenizer's decoder.
        """

        def entry(token: int, logprob: float) -> dict[str, Any]:
            return {"token": decode([token]), "id": token, "logprob": logprob}

        return tuple(
            {**entry(token, logprob), "top_logprobs": [entry(*each) for each in zip(tokens, values, strict=True)]}
            for token, logprob, tokens, values in self._noted[:count]
        )
