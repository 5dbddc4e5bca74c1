"""Which steps a span shows."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.pipeline.step_log import StepLog, TrainingStep


def log_of(count: int, most: int) -> StepLog:
    log = StepLog(most)
    for number in range(1, count + 1):
        log.add(TrainingStep(number=number, monotonic_ns=number, loss=1 / number))
    return log


@given(st.integers(0, 3000), st.integers(2, 70))
def test_few_steps_are_all_kept_and_of_many_the_first_the_last_and_some_evenly_between(count, most):
    log = log_of(count, most)
    kept = [step.number for step in log.kept()]
    assert log.count == count
    if count < most:
        assert kept == list(range(1, count + 1))
        return
    assert len(kept) <= most
    assert (kept[0], kept[-1]) == (1, count)
    gaps = {later - earlier for earlier, later in pairwise(kept[:-1])}
    assert len(gaps) <= 1, "but for the last, all are as far from each other"
    assert len(kept) >= min(count, most) // 2


def test_the_losses_that_are_told_are_the_first_the_last_and_the_lowest():
    log = StepLog()
    for number, loss in enumerate([None, 3.0, 1.0, 2.0, None]):
        log.add(TrainingStep(number=number, monotonic_ns=number, loss=loss))
    assert (log.loss_first, log.loss_last, log.loss_min) == (3.0, 2.0, 1.0)


def test_a_loss_that_is_no_number_is_told_and_is_never_the_lowest():
    log = StepLog()
    for loss in (math.nan, 2.0, math.nan):
        log.add(TrainingStep(number=1, monotonic_ns=1, loss=loss))
    assert math.isnan(log.loss_first or 0)
    assert math.isnan(log.loss_last or 0)
    assert log.loss_min == 2.0


@pytest.mark.parametrize("most", [-1, 0, 1, 2])
def test_there_is_always_room_for_the_first_and_the_last(most):
    assert [step.number for step in log_of(100, most).kept()] == [1, 100]
