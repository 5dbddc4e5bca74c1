"""How the next token is drawn: the request's wishes, the model's defaults, and one way to do it.

transformers draws from torch's global generator, which every request in the process shares, so that
a seed could mean nothing there. Here each draw needs one number, which follows from the request's
seed and the token's position alone: whoever runs beside it, and in whichever mode, changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import NotSupportedError

_64_BITS: Final = 2**64 - 1
_ALL_AS_THEY_ARE: Final = 0
"""Candidates kept of a row that leaves none out; they need no order."""

_NEXT_TO_NONE: Final = 1e-6
"""A temperature below this has one candidate, and dividing by it may have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one request's tokens are drawn, with nothing left open.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_k: Candidates kept; 0 keeps all.
        top_p: Kept are the likeliest candidates that together reach it.
        min_p: Kept are those that reach this share of the likeliest one's probability.
        repeat_penalty: Divides the logits of what the prompt and the answer have; 1 is none.
        presence_penalty: Taken off the logits of what the answer has.
        frequency_penalty: Taken off for each time that it has it.
        seed: What all draws follow from.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    @property
    def penalises(self) -> bool:
        """Whether it matters what was said before."""
        return self.repeat_penalty != 1 or bool(self.presence_penalty or self.frequency_penalty)

    @property
    def filters(self) -> bool:
        """Whether some candidates are left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def sampling_of(request: InferenceRequest, defaults: Any) -> Sampling:
    """What a request asks for, and where it leaves a choice, what the model's makers recommend.

    A model whose generation configuration does not sample takes the likeliest token, unless the
    request gives a temperature, or candidates to keep, which have a meaning only where there is a draw.

    Args:
        request: The request.
        defaults: The model's ``GenerationConfig``.

    Raises:
        NotSupportedError: A repeat penalty of 0.
    """
    asked = request.sampling
    recommended = defaults if getattr(defaults, "do_sample", False) else None
    draws = recommended is not None or not asked.top_p is asked.top_k is asked.min_p is None
    repeat_penalty = _first(asked.repeat_penalty, getattr(defaults, "repetition_penalty", None), 1.0)
    if repeat_penalty <= 0:
        raise NotSupportedError("sampling.repeat_penalty=0 divides by nothing: 1 is no penalty, more is one")
    temperature = _first(asked.temperature, getattr(recommended, "temperature", None), 1.0 if draws else 0.0)
    return Sampling(
        temperature=temperature if temperature >= _NEXT_TO_NONE else 0.0,
        top_k=int(_first(asked.top_k, getattr(recommended, "top_k", None), 0)),
        top_p=_first(asked.top_p, getattr(recommended, "top_p", None), 1.0),
        min_p=_first(asked.min_p, getattr(recommended, "min_p", None), 0.0),
        repeat_penalty=repeat_penalty,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        seed=secrets.randbits(64) if request.seed is None else request.seed & _64_BITS,
    )


def uniform(seed: int, position: int) -> float:
    """A number from 0 up to 1, the same for the same two integers and unlike that of any others.

    Args:
        seed: The request's.
        position: Which token of the sequence is drawn.
    """
    return (_mix(_mix(seed) + position) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    # SplitMix64, https://prng.di.unimi.it/splitmix64.c: every bit of what goes in moves half of what comes out.
    value = (value + 0x9E3779B97F4A7C15) & _64_BITS
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return value ^ (value >> 31)


def penalise(logits: Any, prompt: Sequence[int], answer: Sequence[int], sampling: Sampling) -> None:
    """Makes what was said before less likely, in place.

    Args:
        logits: Of one position, a tensor of one dimension.
        prompt: Tokens of the prompt.
        answer: Tokens generated so far.
        sampling: The penalties.
    """
    import torch

    if sampling.repeat_penalty != 1:
        seen = torch.tensor([*prompt, *answer], device=logits.device).unique()
        said = logits[seen]
        logits[seen] = (said * sampling.repeat_penalty).where(said < 0, said / sampling.repeat_penalty)
    if answer and (sampling.presence_penalty or sampling.frequency_penalty):
        seen, times = torch.tensor(answer, device=logits.device).unique(return_counts=True)
        logits[seen] -= sampling.presence_penalty + sampling.frequency_penalty * times


def draw(logits: Any, samplings: Sequence[Sampling], positions: Sequence[int]) -> Any:
    """Draws one token for each row; every row has a temperature.

    The steps are those of transformers' own warpers, in their order: temperature, ``top_k``,
    ``top_p``, ``min_p``. The draw looks up a number from 0 to 1 in the sum of the probabilities.

    Args:
        logits: A tensor of rows of candidates.
        samplings: How each row is drawn.
        positions: Which token of its sequence each row draws.

    Returns:
        A tensor with the index of the token of each row.
    """
    # Rows that keep equally many are drawn together. A row among others would have its candidates in another order.
    kept: dict[int, list[int]] = {}
    size = logits.shape[-1]
    for row, each in enumerate(samplings):
        kept.setdefault(min(each.top_k or size, size) if each.filters else _ALL_AS_THEY_ARE, []).append(row)
    tokens = logits.new_empty(len(samplings), dtype=int)
    for width, rows in kept.items():
        tokens[rows] = _draw(logits[rows], [samplings[row] for row in rows], [positions[row] for row in rows], width)
    return tokens


def _draw(logits: Any, samplings: Sequence[Sampling], positions: Sequence[int], width: int) -> Any:
    """The same for rows that all keep so many of the likeliest candidates."""

    def column(values: Sequence[float]) -> Any:
        return logits.new_tensor(values).unsqueeze(1)

    logits = logits / column([each.temperature for each in samplings])
    order = None
    if width != _ALL_AS_THEY_ARE:
        logits, order = logits.topk(width) if width < logits.shape[-1] else logits.sort(descending=True)
    weights = logits.softmax(-1)
    if order is not None:
        before = weights.cumsum(-1) - weights
        dropped = before >= column([each.top_p for each in samplings])
        dropped |= weights < weights[:, :1] * column([each.min_p for each in samplings])
        dropped[:, 0] = False
        weights = weights.masked_fill(dropped, 0.0)
    sums = weights.cumsum(-1)
    total = sums[:, -1:]
    place = total * column([uniform(each.seed, at) for each, at in zip(samplings, positions, strict=True)])
    # Rounding may lift the place to the very end, where there is no candidate.
    found = (sums <= place.minimum(total.nextafter(total.new_zeros(())))).sum(-1, keepdim=True)
    return (found if order is None else order.gather(-1, found)).squeeze(-1)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
