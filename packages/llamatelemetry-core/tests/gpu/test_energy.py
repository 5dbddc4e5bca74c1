"""Energy is divided without losing or inventing any, and each part of a request's figure is told honestly."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llamatelemetry.errors import ConfigurationError
from llamatelemetry.gpu.energy import (
    Claim,
    EnergyMethod,
    EnergyWindow,
    RequestEnergy,
    Split,
    WorkWeights,
    split_window,
    uncertainty_j,
)

MS = 1_000_000

joules = st.floats(min_value=0.0, max_value=1e300)
watts = st.none() | st.floats(min_value=0.0, max_value=1e300)
tokens = st.just(0.0) | st.floats(min_value=0.0, max_value=1e300)
weight = st.just(0.0) | st.floats(min_value=0.0, max_value=1e300)
claims = st.builds(
    Claim,
    overlap_ns=st.integers(min_value=0, max_value=10**12),
    prefill_tokens=tokens,
    decode_tokens=tokens,
)


@st.composite
def weights(draw: st.DrawFn) -> WorkWeights:
    """Any weights that are allowed."""
    values = draw(st.tuples(weight, weight, weight).filter(any))
    return WorkWeights(prefill_token=values[0], decode_step=values[1], decode_token=values[2])


def a_window(energy_j: float = 10.0, ms: int = 100, *, method: EnergyMethod = EnergyMethod.COUNTER, start_ms: int = 0):
    return EnergyWindow(
        start_ns=start_ms * MS,
        end_ns=(start_ms + ms) * MS,
        energy_j=energy_j,
        method=method,
        step_j=energy_j if method is EnergyMethod.COUNTER else energy_j / 10,
    )


def a_claim(prefill: float = 0.0, decode: float = 0.0, *, ms: int = 100) -> Claim:
    return Claim(overlap_ns=ms * MS, prefill_tokens=prefill, decode_tokens=decode)


def whole(split: Split) -> float:
    return math.fsum((*split.shares_j, split.idle_j, split.unattributed_j))


@given(
    energy_j=joules,
    ms=st.integers(min_value=1, max_value=10**6),
    claims=st.lists(claims, max_size=12),
    idle_w=watts,
    weights=weights(),
    attributable=st.floats(min_value=0.0, max_value=1.0),
)
def test_requests_idle_and_unattributed_are_what_was_measured(
    *, energy_j: float, ms: int, claims: list[Claim], idle_w: float | None, weights: WorkWeights, attributable: float
):
    split = split_window(a_window(energy_j, ms), claims, idle_w=idle_w, weights=weights, attributable=attributable)

    assert math.isclose(whole(split), energy_j, rel_tol=1e-9)
    assert len(split.shares_j) == len(split.margins_j) == len(claims)
    assert min((*split.shares_j, *split.margins_j, split.idle_j, split.unattributed_j)) >= 0


@given(energy_j=st.floats(min_value=0.0, max_value=1e300), claim=claims, idle_w=watts, weights=weights())
def test_a_request_alone_gets_all_above_idle(energy_j: float, claim: Claim, idle_w: float | None, weights: WorkWeights):
    assume(claim.overlap_ns > 0)

    split = split_window(a_window(energy_j), [claim], idle_w=idle_w, weights=weights)

    assert split.shares_j == (energy_j - split.idle_j,)
    assert split.unattributed_j == 0
    assert split.margins_j == (0,)


def test_idle_energy_is_idle_power_over_the_window_and_never_more_than_there_was():
    assert split_window(a_window(10.0), [a_claim()], idle_w=30.0).idle_j == pytest.approx(3.0)
    assert split_window(a_window(2.0), [a_claim()], idle_w=30.0).idle_j == 2.0
    assert split_window(a_window(2.0), [a_claim()], idle_w=None).idle_j == 0.0


def test_without_a_request_what_is_above_idle_is_unattributed():
    split = split_window(a_window(10.0), [], idle_w=30.0)

    assert (split.shares_j, split.unattributed_j) == ((), 7.0)


def test_what_other_processes_have_of_the_device_is_unattributed():
    split = split_window(a_window(10.0), [a_claim(decode=3), a_claim(decode=3)], idle_w=20.0, attributable=0.25)

    assert split.shares_j == (1.0, 1.0)
    assert split.unattributed_j == 6.0


def test_prompt_tokens_are_divided_in_proportion():
    split = split_window(a_window(10.0), [a_claim(prefill=300), a_claim(prefill=100)], idle_w=20.0)

    assert split.shares_j == pytest.approx((6.0, 2.0))


def test_a_decoding_step_costs_the_same_with_more_requests_in_it_and_they_share_it():
    weights = WorkWeights(prefill_token=1.0, decode_step=30.0, decode_token=2.0)
    prompt = a_claim(prefill=64)

    alone = split_window(a_window(), [prompt, a_claim(decode=2)], idle_w=None, weights=weights)
    in_two = split_window(a_window(), [prompt, a_claim(decode=2), a_claim(decode=2)], idle_w=None, weights=weights)

    assert alone.shares_j == pytest.approx((5.0, 5.0))
    assert in_two.shares_j[0] / in_two.shares_j[1] == pytest.approx(64 / (2 * 2 + 2 * 30 / 2))


def test_requests_without_work_share_by_time():
    split = split_window(a_window(10.0), [a_claim(ms=75), a_claim(ms=25)], idle_w=None)

    assert split.shares_j == pytest.approx((7.5, 2.5))


def test_who_waits_beside_one_who_works_gets_nothing():
    assert split_window(a_window(10.0), [a_claim(decode=1), a_claim()], idle_w=None).shares_j == (10.0, 0.0)


def test_a_request_that_was_not_there_takes_nothing():
    split = split_window(a_window(10.0), [a_claim(ms=0)], idle_w=None)

    assert (split.shares_j, split.unattributed_j) == ((0.0,), 10.0)


def by_definition(worth, players: int) -> list[float]:
    """Shapley values as they are defined: what each adds on arrival, on average over all orders of arrival."""
    shares = [0.0] * players
    for order in permutations(range(players)):
        for place, player in enumerate(order):
            shares[player] += worth(order[: place + 1]) - worth(order[:place])
    return [share / math.factorial(players) for share in shares]


@given(
    work=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 9)), min_size=1, max_size=5).filter(
        lambda work: any(map(any, work))
    ),
    weights=st.tuples(st.floats(0.1, 10), st.floats(0, 100), st.floats(0.1, 10)),
)
def test_the_split_is_the_shapley_value_where_requests_decode_in_step(
    work: list[tuple[int, int]], weights: tuple[float, float, float]
):
    prefill_token, decode_step, decode_token = weights

    def worth(coalition: tuple[int, ...]) -> float:
        present = [work[i] for i in coalition]
        steps = max((decode for _, decode in present), default=0)
        each = sum(prefill_token * prefill + decode_token * decode for prefill, decode in present)
        return each + decode_step * steps

    energy_j = worth(tuple(range(len(work))))
    split = split_window(
        a_window(energy_j),
        [a_claim(prefill, decode) for prefill, decode in work],
        idle_w=None,
        weights=WorkWeights(prefill_token=prefill_token, decode_step=decode_step, decode_token=decode_token),
    )

    assert split.shares_j == pytest.approx(by_definition(worth, len(work)), rel=1e-9, abs=1e-9)


@given(st.permutations([a_claim(120, 0), a_claim(0, 4), a_claim(30, 2), a_claim(0, 1), a_claim()]))
def test_the_order_of_the_requests_does_not_matter(claims: list[Claim]):
    split = split_window(a_window(), claims, idle_w=20.0)
    other = split_window(a_window(), claims[::-1], idle_w=20.0)

    assert split.shares_j == pytest.approx(other.shares_j[::-1])
    assert split.margins_j == pytest.approx(other.margins_j[::-1])


def test_only_the_ratios_of_weights_matter():
    claims = [a_claim(200, 0), a_claim(0, 3)]
    weights = WorkWeights()
    scaled = WorkWeights(
        prefill_token=weights.prefill_token * 1e-200,
        decode_step=weights.decode_step * 1e-200,
        decode_token=weights.decode_token * 1e-200,
    )

    assert split_window(a_window(), claims, idle_w=None, weights=scaled).shares_j == pytest.approx(
        split_window(a_window(), claims, idle_w=None, weights=weights).shares_j
    )


@pytest.mark.parametrize(
    ("given_weights", "field"),
    [
        ({"prefill_token": -1.0}, "weights.prefill_token"),
        ({"decode_step": math.nan}, "weights.decode_step"),
        ({"decode_token": math.inf}, "weights.decode_token"),
        ({"prefill_token": 0.0, "decode_step": 0.0, "decode_token": 0.0}, "weights"),
    ],
)
def test_weights_that_mean_nothing_are_refused(given_weights: dict[str, float], field: str):
    with pytest.raises(ConfigurationError) as caught:
        WorkWeights(**given_weights)

    assert caught.value.field == field


def test_the_margin_is_wider_where_the_weights_decide():
    alike = split_window(a_window(), [a_claim(decode=3), a_claim(decode=3)], idle_w=None)
    mixed = split_window(a_window(), [a_claim(prefill=120), a_claim(decode=3)], idle_w=None)

    assert 0 < max(alike.margins_j) < min(mixed.margins_j)


def test_the_margin_is_wider_where_nobody_knows_which_prompt_was_computed():
    one = split_window(a_window(), [a_claim(prefill=400), a_claim()], idle_w=None)
    two = split_window(a_window(), [a_claim(prefill=400), a_claim(prefill=400)], idle_w=None)

    assert one.margins_j[0] / one.shares_j[0] < two.margins_j[0] / two.shares_j[0]


def test_weights_four_times_off_stay_within_the_margin():
    claims = [a_claim(prefill=120), a_claim(decode=3), a_claim(prefill=40, decode=1)]
    weights = WorkWeights()
    split = split_window(a_window(), claims, idle_w=None)
    for factor in (0.25, 4.0):
        other = split_window(
            a_window(),
            claims,
            idle_w=None,
            weights=WorkWeights(decode_step=weights.decode_step * factor, decode_token=weights.decode_token * factor),
        )
        for share, margin, truth in zip(split.shares_j, split.margins_j, other.shares_j, strict=True):
            assert abs(truth - share) <= margin


def added(*parts: tuple[EnergyWindow, Claim, float, float]) -> RequestEnergy:
    request = RequestEnergy()
    for window, claim, share_j, margin_j in parts:
        request.add(window, claim, share_j=share_j, margin_j=margin_j)
    return request


def test_a_request_adds_up_its_shares():
    request = added((a_window(), a_claim(), 4.0, 0.0), (a_window(start_ms=100), a_claim(ms=50), 3.0, 0.0))

    assert request.energy_j == 7.0
    assert request.method is EnergyMethod.COUNTER


def test_a_request_before_its_first_window_has_no_method_and_no_energy():
    request = RequestEnergy()

    assert (request.method, request.energy_j, request.uncertainty_j) == (None, 0.0, 0.0)


def test_a_request_shorter_than_the_counters_period_is_interpolated_and_wholly_uncertain():
    inside = added((a_window(), a_claim(ms=40), 4.0, 0.0))
    across = added((a_window(), a_claim(ms=20), 4.0, 0.0), (a_window(start_ms=100), a_claim(ms=20), 5.0, 0.0))

    assert inside.method is across.method is EnergyMethod.INTERPOLATED
    assert inside.uncertainty_j == pytest.approx(4.0)


def test_power_in_any_window_makes_the_figure_one_of_power():
    request = added(
        (a_window(), a_claim(), 4.0, 0.0),
        (a_window(method=EnergyMethod.POWER, start_ms=100), a_claim(), 4.0, 0.0),
    )

    assert request.method is EnergyMethod.POWER


def test_what_the_counter_holds_back_counts_once_however_long_the_request():
    short = added(*[(a_window(start_ms=i * 100), a_claim(), 8.0, 0.0) for i in range(3)])
    long = added(*[(a_window(start_ms=i * 100), a_claim(), 8.0, 0.0) for i in range(300)])

    assert short.uncertainty_j == long.uncertainty_j == pytest.approx(8.0)


def test_rough_power_grows_with_the_root_of_the_windows_and_margins_with_their_number():
    def power(count: int, margin_j: float = 0.0) -> float:
        return added(
            *[(a_window(method=EnergyMethod.POWER, start_ms=i * 100), a_claim(), 10.0, margin_j) for i in range(count)]
        ).uncertainty_j

    assert power(100) == pytest.approx(10 * power(1))
    assert power(100, 5.0) == pytest.approx(math.hypot(power(100), 500.0))


def test_devices_uncertainties_add_up():
    request = added((a_window(), a_claim(), 8.0, 3.0))

    assert uncertainty_j([request, request]) == pytest.approx(2 * request.uncertainty_j)
    assert uncertainty_j([]) == 0.0
