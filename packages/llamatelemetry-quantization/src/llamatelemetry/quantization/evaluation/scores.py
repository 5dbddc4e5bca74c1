"""What logits say of a text: the loss of each token, and how far two models are apart on it.

Blocks come and go; what stays of a token is a number or four. Everything is computed in float64, because the
divergence of good quantizations is a small difference of large sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llamatelemetry.errors import BackendError
from llamatelemetry.quantization.evaluation.logits import Logits

__all__ = ["PairScores", "score_pair", "score_tokens"]

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScores:
    """Two models on one window, a number for each token that was scored.

    Attributes:
        losses: Negative log-likelihoods of the model, in nats.
        parent_losses: Those of its parent.
        divergences: Kullback-Leibler divergences of the model's distribution from its parent's, in nats.
        agreements: Whether both find the same token the most likely.
    """

    losses: Numbers
    parent_losses: Numbers
    divergences: Numbers
    agreements: npt.NDArray[np.bool_]


def score_tokens(blocks: Iterator[Logits], targets: Sequence[int]) -> Numbers:
    """The loss of each target, in nats.

    Args:
        blocks: Logits, a row for each target.
        targets: The tokens that came.

    Raises:
        BackendError: There are numbers among them that are not finite, or too few.
    """
    wanted = np.asarray(targets, np.int64)
    losses = []
    done = 0
    for block in blocks:
        logs = _log_probabilities(block)
        losses.append(-logs[np.arange(len(logs)), wanted[done : done + len(logs)]])
        done += len(logs)
    _check_count(done, len(wanted))
    return np.concatenate(losses)


def score_pair(blocks: Iterator[Logits], parent_blocks: Iterator[Logits], targets: Sequence[int]) -> PairScores:
    """Losses of both models, and how far they are apart.

    Args:
        blocks: Logits of the model, a row for each target.
        parent_blocks: Logits of its parent, likewise.
        targets: The tokens that came.

    Raises:
        BackendError: There are numbers among them that are not finite, or too few.
    """
    wanted = np.asarray(targets, np.int64)
    parts: list[tuple[npt.NDArray[np.generic], ...]] = []
    done = 0
    for block, parent_block in _side_by_side(blocks, parent_blocks):
        logs, parent_logs = _log_probabilities(block), _log_probabilities(parent_block)
        rows = np.arange(len(logs))
        came = wanted[done : done + len(logs)]
        agreements = logs.argmax(axis=1) == parent_logs.argmax(axis=1)
        losses, parent_losses = -logs[rows, came], -parent_logs[rows, came]
        np.subtract(parent_logs, logs, out=logs)
        # No divergence is below zero; rounding may say so where two models are the same but for it.
        divergences = np.maximum(np.einsum("ij,ij->i", np.exp(parent_logs), logs), 0)
        parts.append((losses, parent_losses, divergences, agreements))
        done += len(logs)
    _check_count(done, len(wanted))
    losses, parent_losses, divergences, agreements = (np.concatenate(column) for column in zip(*parts, strict=True))
    return PairScores(losses=losses, parent_losses=parent_losses, divergences=divergences, agreements=agreements)


def _log_probabilities(block: Logits) -> Numbers:
    values = block.astype(np.float64)
    if not np.isfinite(values).all():
        raise BackendError(
            "the model computes logits that are not finite, so nothing can be said of it: "
            "it is damaged, or quantized to too few bits"
        )
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


def _side_by_side(first: Iterator[Logits], second: Iterator[Logits]) -> Iterator[tuple[Logits, Logits]]:
    """Blocks of equally many rows, whatever rows each side has in one."""
    left: Logits | None = None
    right: Logits | None = None
    while True:
        left = next(first, None) if left is None else left
        right = next(second, None) if right is None else right
        if left is None or right is None:
            if left is not right:
                raise BackendError("two models gave logits of different numbers of tokens")
            return
        rows = min(len(left), len(right))
        yield left[:rows], right[:rows]
        left, right = left[rows:] if len(left) > rows else None, right[rows:] if len(right) > rows else None


def _check_count(done: int, wanted: int) -> None:
    if done != wanted:
        raise BackendError(f"a model gave logits of {done} tokens, and {wanted} were asked for")
