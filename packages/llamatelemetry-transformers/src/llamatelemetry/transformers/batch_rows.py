"""Which tokens of a batch are whose, and how many each has: arithmetic over what was seen of a generation.

A batch goes on until its last sequence is complete, and fills up those that were before; a request can
have several sequences; a step can bring several tokens. What counts is what was generated for the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from llamatelemetry.transformers.steps import Steps

_SMALL: Final = 1024

Reason = Literal["stop", "length"]


@dataclass(slots=True, kw_only=True)
class Answer:
    """What was generated for one request.

    Attributes:
        tokens: How many, of all its sequences.
        moments: When those of its longest sequence were there, in monotonic nanoseconds.
        reasons: Why each of its sequences ended.
        ids: Tokens of each of them, if they are wanted.
        early: Whether it was complete while others of its batch were not.
    """

    tokens: int = 0
    moments: list[int] = field(default_factory=list)
    reasons: Sequence[Reason] = ("stop",)
    ids: Sequence[list[int]] = ()
    early: bool = False

    def go_on(self, part: Answer) -> None:
        """Adds what a later loop generated for the same request."""
        self.tokens += part.tokens
        self.moments += part.moments
        self.ids = [[*before, *after] for before, after in zip(self.ids, part.ids, strict=False)]
        self.reasons, self.early = part.reasons, part.early


@dataclass(slots=True, kw_only=True)
class Counted:
    """What was counted of a loop while its sequences were still there as they were generated.

    Attributes:
        config: The generation configuration that it ran under.
        lengths: How many tokens a sequence had after each step, its prompt included.
        moments: When each step was made, in monotonic nanoseconds.
        start: Tokens that a sequence began with.
        counts: By sequence, how many tokens it has; None for beams that nobody has chosen from.
        of_each: Sequences of each request.
        last_ids: The last token of each sequence.
        ids: All tokens of each, if they are wanted.
        has_beams: Whether it searched with beams.
    """

    config: Any
    lengths: Sequence[int]
    moments: list[int]
    start: int
    counts: Sequence[int] | None = None
    of_each: int = 1
    last_ids: Sequence[int] = ()
    ids: Sequence[list[int]] = ()
    has_beams: bool = False


def counted(steps: Steps, requests: int, prompt_width: int | None, *, with_ids: bool = False) -> Counted | None:
    """Counts what a loop generated that was seen step by step; only this looks at sequences.

    Args:
        steps: What was seen.
        requests: How many prompts there were.
        prompt_width: Tokens that a sequence began with, where a step may bring several.
        with_ids: Whether the tokens themselves are wanted.

    Returns:
        The counts, or None where requests cannot be told apart.
    """
    config = steps.config
    lengths, moments = steps.read()
    if not lengths:
        return None
    start = lengths[0] - 1 if prompt_width is None else prompt_width
    has_beams, returned = (config.num_beams or 1) > 1, steps.returned
    sequences = returned if has_beams else steps.latest
    if sequences is None:
        return Counted(config=config, lengths=lengths, moments=moments, start=start)
    if has_beams:
        # What fills beams up is not always the token that fills up the rest.
        fills = token_ids(config.pad_token_id) | token_ids(config.eos_token_id) | {-1}
        endings = _endings(steps, [length - start for length in lengths], requests)
        counts = _complete(sequences[:, start:].tolist(), config, fills, endings)
    else:
        counts = [lengths[step] - start for step in _last_steps(steps, len(lengths), sequences.shape[0])]
        if returned is not None and returned.shape[0] == len(counts):
            # A step that was made before it was known to be one too many is not returned.
            counts = [min(count, returned.shape[1] - start) for count in counts]
    of_each, rest = divmod(len(counts), requests)
    if rest or not of_each:
        return None
    return Counted(
        config=config,
        lengths=lengths,
        moments=moments,
        start=start,
        counts=counts,
        of_each=of_each,
        last_ids=_ids_at(sequences, [start + count - 1 for count in counts]),
        ids=[row[start : start + count].tolist() for row, count in zip(sequences, counts, strict=True)]
        if with_ids
        else (),
        has_beams=has_beams,
    )


def answers_of_steps(loop: Counted, requests: int, begun_ns: int) -> list[Answer]:
    """What a loop generated, one answer for each prompt.

    Args:
        loop: What was counted.
        requests: How many prompts there were.
        begun_ns: When the generation began, on the monotonic clock.
    """
    config, counts, of_each, start = loop.config, loop.counts, loop.of_each, loop.start
    if counts is None:
        return [Answer(tokens=loop.lengths[-1] - start, moments=list(loop.moments)) for _ in range(requests)]
    ends = token_ids(config.eos_token_id)
    per_token = _per_token(loop.moments, loop.lengths, start)
    answers = []
    for first in range(0, len(counts), of_each):
        rows = slice(first, first + of_each)
        own = counts[rows]
        longest = max(own)
        answers.append(
            Answer(
                tokens=sum(own),
                moments=per_token[:longest],
                reasons=[
                    "stop" if last_id in ends else _reason(config, loop.moments, start + count, begun_ns)
                    for last_id, count in zip(loop.last_ids[rows], own, strict=True)
                ],
                ids=loop.ids[rows],
                early=not loop.has_beams and longest < max(counts),
            )
        )
    return answers


def answers_of_result(returned: Any, requests: int, prompt_width: int | None, config: Any) -> list[Answer] | None:
    """What was generated where nobody saw how, from what was returned.

    Args:
        returned: The sequences; None where it failed.
        requests: How many prompts there were.
        prompt_width: Tokens that each sequence began with, where that is known.
        config: Has ``eos_token_id``, ``pad_token_id``, and ``max_length`` and ``max_time`` as far as they are known.

    Returns:
        One answer for each prompt, or None where they cannot be told apart.
    """
    if returned is None or prompt_width is None or not returned.shape[0] or returned.shape[0] % requests:
        return None
    generated = returned[:, prompt_width:].tolist()
    counts = _complete(generated, config, token_ids(config.pad_token_id))
    of_each = len(counts) // requests
    ends = token_ids(config.eos_token_id)
    answers = []
    for first in range(0, len(counts), of_each):
        rows = slice(first, first + of_each)
        ids = [row[:count] for row, count in zip(generated[rows], counts[rows], strict=True)]
        reasons: list[Reason] = [
            "stop" if not ends.isdisjoint(row[-1:]) else _reason(config, (), prompt_width + len(row), 0) for row in ids
        ]
        answers.append(Answer(tokens=sum(counts[rows]), reasons=reasons, ids=ids))
    return answers


def is_small(tensor: Any) -> bool:
    """Whether it is sooner turned into a list than torch is asked about it."""
    return bool(tensor.device.type == "cpu" and tensor.numel() <= _SMALL)


def token_ids(value: Any) -> frozenset[int]:
    """One id, several, or none, as configurations have them."""
    if value is None:
        return frozenset()
    if hasattr(value, "tolist"):
        value = value.tolist()
    return frozenset([value] if isinstance(value, int) else value)


def _reason(config: Any, moments: Sequence[int], length: int, begun_ns: int) -> Reason:
    if config.max_length is not None and length >= config.max_length:
        return "length"
    if config.max_time is not None and moments and (moments[-1] - begun_ns) * 1e-9 >= config.max_time:
        return "length"
    return "stop"


def _last_steps(steps: Steps, made: int, sequences: int) -> list[int]:
    """By sequence, the step that completed it."""
    last = made - 1
    if sequences == 1 or steps.done is None or len(steps.done) <= last:
        return [last] * sequences
    import torch

    incomplete_for = (torch.stack(steps.done).cumsum(0) == 0).sum(0)
    return [min(step, last) for step in incomplete_for.tolist()]


def _ids_at(sequences: Any, columns: Sequence[int]) -> list[int]:
    """The token of each sequence that stands at a column of its own."""
    if is_small(sequences):
        return [row[column] for row, column in zip(sequences.tolist(), columns, strict=True)]
    ids: list[int] = sequences[range(len(columns)), list(columns)].tolist()
    return ids


def _per_token(moments: list[int], lengths: Sequence[int], start: int) -> list[int]:
    if not moments or lengths[-1] - start == len(lengths):
        return moments  # One token a step.
    before, each = start, []
    for moment, length in zip(moments, lengths, strict=True):
        each += [moment] * (length - before)
        before = length
    return each


def _endings(steps: Steps, lengths: Sequence[int], requests: int) -> list[list[int]] | None:
    """By request, the lengths at which one of its beams was complete, the last one included."""
    import torch

    if steps.done is None or len(steps.done) != len(lengths) or steps.done[0].shape[0] % requests:
        return None
    any_done = torch.stack(steps.done).reshape(len(lengths), requests, -1).any(-1)
    any_done[-1] = True
    return [[lengths[step] for step in row.nonzero().flatten().tolist()] for row in any_done.T]


def _complete(
    generated: Sequence[Sequence[int]],
    config: Any,
    fills: frozenset[int],
    endings: Sequence[Sequence[int]] | None = None,
) -> list[int]:
    """How many tokens of each sequence are its own: the first that ends it is, what fills it up is not.

    A token that fills up may be generated too. Where it is known at which lengths sequences were
    complete, in ascending order and by request, a sequence that ends with such tokens has one of these.
    """
    ends = token_ids(config.eos_token_id)
    counts = []
    for row, tokens in enumerate(generated):
        count = next((index + 1 for index, token in enumerate(tokens) if token in ends), None)
        if count is None:
            count = len(tokens)
            while count and tokens[count - 1] in fills:
                count -= 1
            if endings is not None:
                possible = endings[row * len(endings) // len(generated)]
                count = min(next((length for length in possible if length >= count), len(tokens)), len(tokens))
        counts.append(count)
    return counts
