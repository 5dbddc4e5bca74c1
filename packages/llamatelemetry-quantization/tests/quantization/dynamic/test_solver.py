from __future__ import annotations

import itertools

import numpy as np
import pytest

from llamatelemetry.quantization.dynamic.solver import STEPS, best_choices, cheapest_choices


def problem(seed, groups=6, options=4):
    """Groups of options that take more the less they cost, in no order, of sizes that are no round numbers."""
    random = np.random.default_rng(seed)
    sizes = np.sort(random.integers(10_000, 90_000, (groups, options)), axis=1)
    costs = -np.sort(-random.exponential(1, (groups, options)), axis=1)
    return [list(zip(map(int, row), map(float, cost), strict=True)) for row, cost in zip(sizes, costs, strict=True)]


def totals(groups, chosen):
    taken = [options[at] for options, at in zip(groups, chosen, strict=True)]
    return sum(size for size, _ in taken), sum(cost for _, cost in taken)


def every(groups):
    return [totals(groups, chosen) for chosen in itertools.product(*(range(len(options)) for options in groups))]


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_that_fits_costs_less(seed):
    groups = problem(seed)
    least = sum(options[0][0] for options in groups)
    unit = (sum(options[-1][0] for options in groups) - least) / STEPS

    for budget in np.linspace(least, least + STEPS * unit, 7).astype(int):
        size, cost = totals(groups, best_choices(groups, int(budget)))
        assert size <= budget
        # Rounding up may leave a step a group unused, and never more.
        sure = budget - 2 * len(groups) * unit
        assert cost <= min([found for taken, found in every(groups) if taken <= sure], default=np.inf) + 1e-12


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_that_is_good_enough_takes_less(seed):
    groups = problem(seed)
    unit = (sum(options[-1][0] - options[0][0] for options in groups)) / STEPS

    for most in (1.0, 2.5, 6.0):
        chosen = cheapest_choices(groups, most)
        enough = [size for size, cost in every(groups) if cost <= most]
        if chosen is None:
            assert enough == []
            continue
        size, cost = totals(groups, chosen)
        assert cost <= most
        assert size <= min(enough) + 2 * len(groups) * unit


def test_what_cannot_be_met_has_no_answer():
    groups = problem(1)
    assert best_choices(groups, 5) is None
    assert cheapest_choices(groups, 0.0) is None


def test_options_need_no_order_and_may_cost_more_for_more():
    groups = [[(30, 0.5), (10, 0.1), (20, 9.0)], [(40, 1.0)]]

    assert best_choices(groups, 1000) == [1, 0]
    assert cheapest_choices(groups, 2.0) == [1, 0]
