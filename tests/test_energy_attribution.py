"""The reference is the Shapley value, and the engine's division of energy stays near it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from random import Random
from statistics import mean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
WORKLOADS = 15


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Callable[[str], object]]:
    """Imports a module of the benchmarks, which are scripts, and find each other beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module


@pytest.fixture(scope="module")
def shapley(benchmark):
    return benchmark("energy_reference.shapley").shapley


@pytest.fixture(scope="module")
def model(benchmark):
    return benchmark("energy_reference.device")


@pytest.fixture(scope="module")
def attribution(benchmark):
    return benchmark("energy_attribution")


games = st.integers(1, 5).flatmap(
    lambda players: st.lists(st.floats(-1e6, 1e6), min_size=2**players, max_size=2**players).map(
        lambda worth: (players, [0.0, *worth[1:]])
    )
)


@given(game=games)
def test_the_reference_is_what_each_adds_on_average_over_all_orders(shapley, game):
    players, worth = game
    by_definition = [0.0] * players
    for order in permutations(range(players)):
        present = 0
        for player in order:
            by_definition[player] += worth[present | 1 << player] - worth[present]
            present |= 1 << player

    shares = [total / math.factorial(players) for total in by_definition]
    assert shapley(players, worth.__getitem__) == pytest.approx(shares, rel=1e-9, abs=1e-6)


@given(game=games)
def test_the_reference_gives_out_the_whole(shapley, game):
    players, worth = game

    assert math.fsum(shapley(players, worth.__getitem__)) == pytest.approx(worth[-1], rel=1e-9, abs=1e-6)


@given(worth_of_size=st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5))
def test_the_reference_gives_the_same_to_those_who_do_the_same(shapley, worth_of_size):
    shares = shapley(5, lambda coalition: [0.0, *worth_of_size][coalition.bit_count()])

    assert shares == pytest.approx([shares[0]] * 5, rel=1e-9, abs=1e-6)


@given(game=games, own=st.floats(-1e6, 1e6))
def test_the_reference_gives_one_who_changes_nothing_for_others_what_it_brings(shapley, game, own):
    players, worth = game
    dummy = 1 << players

    shares = shapley(players + 1, lambda coalition: worth[coalition % dummy] + (own if coalition & dummy else 0.0))

    assert shares[-1] == pytest.approx(own, rel=1e-9, abs=1e-6)
    assert shares[:-1] == pytest.approx(shapley(players, worth.__getitem__), rel=1e-9, abs=1e-6)


@given(
    one=st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=8),
    other=st.lists(st.floats(0, 1e6), min_size=8, max_size=8),
)
def test_the_reference_adds_up_over_games(shapley, one, other):
    both = shapley(3, lambda coalition: one[coalition] + other[coalition])

    apart = [a + b for a, b in zip(shapley(3, one.__getitem__), shapley(3, other.__getitem__), strict=True)]
    assert both == pytest.approx(apart, rel=1e-9, abs=1e-6)


def test_the_reference_of_two_and_three_players_by_hand(shapley):
    # Alone 6 and 10, together 12: the four that are saved are shared.
    assert shapley(2, [0.0, 6.0, 10.0, 12.0].__getitem__) == pytest.approx([4.0, 8.0])
    # A runway that each needs another length of, 3, 6 and 12: 3 in three, 3 in two, 6 for one.
    runway = (3.0, 6.0, 12.0)
    assert shapley(
        3, lambda coalition: max((runway[i] for i in range(3) if coalition >> i & 1), default=0.0)
    ) == pytest.approx([1.0, 2.5, 8.5])


def test_the_modelled_device_by_hand(model):
    device = model.Device(step_s=1.0, token_s=0.0, step_j=12.0, prefill_token_j=1.0, decode_token_j=2.0)
    # Both prompts in one step, which also gives a first token each; then one step for two, one for one.
    requests = [model.Request(0.0, 10, 2), model.Request(0.0, 4, 3)]
    steps = model.run(device, requests)

    assert [(step.decoding, step.prefilling) for step in steps] == [((), ((0, 10), (1, 4))), ((0, 1), ()), ((1,), ())]
    assert [step.energy_j for step in steps] == [26.0, 16.0, 14.0]
    assert model.token_times(requests, steps) == [[1.0, 2.0], [1.0, 2.0, 3.0]]
    fair = [10 + 6 + 2 + 6, 4 + 6 + 2 + 6 + 2 + 12]
    assert model.in_place(device, requests) == pytest.approx(fair)
    assert model.replayed(device, requests) == pytest.approx(fair)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_both_games_of_the_model_give_out_what_was_drawn(model, size):
    device = model.Device(step_j=1.0, prefill_token_j=0.03, decode_token_j=0.05, limit_w=40.0)
    requests = model.workload(Random(size), size)
    drawn_j = math.fsum(step.energy_j for step in model.run(device, requests))

    assert math.fsum(model.replayed(device, requests)) == pytest.approx(drawn_j, rel=1e-9)
    assert math.fsum(model.in_place(device, requests)) == pytest.approx(drawn_j, rel=1e-9)


def test_a_request_alone_is_at_no_distance(attribution):
    found = attribution.distances(attribution.DEVICE, attribution.replayed, 1, WORKLOADS)

    assert max(found["work, steps shared (ours)"]) < 1e-9


@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_division_stays_within_one_percent_of_the_shapley_value(attribution, size):
    found = attribution.distances(attribution.DEVICE, attribution.replayed, size, WORKLOADS)
    ours = found["work, steps shared (ours)"]

    assert mean(ours) < 1.0
    assert attribution.p95(ours) < 3.5
    for other in ("equal", "time", "tokens"):
        assert mean(ours) < 0.85 * mean(found[other])


@pytest.mark.parametrize("label", ["decoding 4 times dearer", "decoding 4 times cheaper"])
def test_with_weights_four_times_off_the_division_is_still_better_than_counting_tokens(attribution, label):
    found = attribution.distances(attribution.DEVICES[label], attribution.replayed, 8, WORKLOADS)
    ours = found["work, steps shared (ours)"]

    assert mean(ours) < 2.0
    assert mean(ours) < mean(found["equal"])
    assert mean(ours) < mean(found["tokens"])


def test_with_a_10_hz_counter_nine_of_ten_shapley_values_are_within_the_uncertainty(attribution):
    found = {row.name: row.value for row in attribution.table_of_meters(WORKLOADS)}

    within = [value for name, value in found.items() if name.endswith("within it")]
    assert min(within) > 80
    assert median(within) > 90
