from __future__ import annotations

import numpy as np
import pytest

from llamatelemetry.errors import BackendError
from llamatelemetry.quantization.evaluation.scores import score_pair, score_tokens


def rows(seed, count=6, vocabulary=11):
    return np.random.default_rng(seed).normal(size=(count, vocabulary)).astype(np.float32)


def blocks(values, *sizes):
    return iter(np.split(values, np.cumsum(sizes)[:-1]))


def test_losses_are_negative_log_likelihoods():
    values, targets = rows(1), [3, 1, 4, 1, 5, 9]

    losses = score_tokens(blocks(values, 4, 2), targets)

    exact = values.astype(np.float64)
    wanted = [np.log(np.exp(row).sum()) - row[target] for row, target in zip(exact, targets, strict=True)]
    assert losses == pytest.approx(wanted, rel=1e-12)


def test_divergence_is_from_the_parent_and_blocks_may_be_cut_anywhere():
    model, parent, targets = rows(1), rows(2), [0] * 6

    pair = score_pair(blocks(model, 1, 3, 2), blocks(parent, 4, 2), targets)

    share = np.exp(parent.astype(np.float64))
    share /= share.sum(axis=1, keepdims=True)
    other = np.exp(model.astype(np.float64))
    other /= other.sum(axis=1, keepdims=True)
    assert pair.divergences == pytest.approx((share * np.log(share / other)).sum(axis=1), rel=1e-10)
    assert pair.agreements.tolist() == (model.argmax(1) == parent.argmax(1)).tolist()
    assert pair.parent_losses == pytest.approx(-np.log(share[:, 0]), rel=1e-10)


def test_a_model_does_not_diverge_from_itself():
    pair = score_pair(blocks(rows(1), 6), blocks(rows(1), 2, 4), [0] * 6)

    assert pair.divergences.max() == 0
    assert pair.agreements.all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_error(bad):
    values = rows(1)
    values[2, 3] = bad
    with pytest.raises(BackendError, match="not finite"):
        score_tokens(blocks(values, 6), [0] * 6)


def test_logits_that_are_missing_are_an_error():
    with pytest.raises(BackendError, match="of 6 tokens, and 7"):
        score_tokens(blocks(rows(1), 6), [0] * 7)
    with pytest.raises(BackendError, match="different numbers of tokens"):
        score_pair(blocks(rows(1), 6), blocks(rows(1, count=5), 5), [0] * 6)
