from __future__ import annotations

import math

import numpy as np
import pytest

from llamatelemetry.quantization.evaluation.intervals import Estimate, mean_with_interval, student_quantile

# Tables of Student's t at 97.5 %, as every book has them.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 30: 2.042, 120: 1.980, 1000: 1.962}


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_tables(freedom):
    assert student_quantile(0.975, freedom) == pytest.approx(TABLE[freedom], abs=5e-4)


def test_an_interval_has_the_true_mean_in_it_as_often_as_it_says():
    drawn = np.random.default_rng(4).normal(3, 2, size=(2000, 5))

    found = [mean_with_interval(row.tolist()) for row in drawn]

    assert 0.93 < np.mean([each.low <= 3 <= each.high for each in found]) < 0.97


def test_one_value_has_no_interval_and_none_no_mean():
    assert mean_with_interval([2.0]) == Estimate(value=2.0, low=None, high=None)
    with pytest.raises(ValueError, match="no values"):
        mean_with_interval([])


def test_an_estimate_goes_through_a_function_and_stays_within_what_is_possible():
    estimate = mean_with_interval([0.0, 1.0])

    grown = estimate.through(math.exp)
    assert (grown.value, grown.low) == (math.exp(0.5), math.exp(estimate.low))
    assert estimate.within(0, 1) == Estimate(value=0.5, low=0, high=1)
