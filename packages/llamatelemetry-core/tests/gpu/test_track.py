from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.gpu.device import FastReading, GPUDevice, SlowReading
from llamatelemetry.gpu.track import EnergySum, Track

SECOND_NS = 1_000_000_000
T4 = GPUDevice(index=0, uuid="GPU-1", name="Tesla T4", power_limit_w=70.0)


def counted(energy_mj: int) -> FastReading:
    return FastReading(energy_mj=energy_mj, power_w=1e6)


def energy(*readings: tuple[float, FastReading], limit_w: float | None = 70.0) -> EnergySum:
    total = EnergySum(SECOND_NS)
    for at_s, fast in readings:
        total.add(round(at_s * 1e9), fast, limit_w)
    return total


@given(st.lists(st.tuples(st.floats(0.01, 2), st.floats(0, 70)), max_size=50), st.integers(0, 10**12))
def test_with_a_counter_the_sum_is_what_it_went_up_by(steps, start_mj) -> None:
    total, now_s, counter_mj = EnergySum(SECOND_NS), 0.0, start_mj
    total.add(0, counted(counter_mj), 70.0)
    for passed_s, power_w in steps:
        now_s += passed_s
        counter_mj += round(passed_s * power_w * 1e3)
        total.add(round(now_s * 1e9), counted(counter_mj), 70.0)
    assert total.joules == pytest.approx((counter_mj - start_mj) / 1e3, rel=1e-9, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0.01, 2), st.none() | st.integers(0, 10**13)), min_size=1, max_size=50))
def test_whatever_a_counter_says_the_sum_never_falls_nor_leaps(steps) -> None:
    total, now_s, before_j = EnergySum(SECOND_NS), 0.0, 0.0
    for passed_s, counter_mj in steps:
        now_s += passed_s
        total.add(round(now_s * 1e9), FastReading(energy_mj=counter_mj), 70.0)
        assert (total.joules or 0.0) >= before_j
        before_j = total.joules or 0.0
    assert before_j <= 4 * 70.0 * (now_s + len(steps))


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 400)), min_size=1, max_size=50))
def test_without_a_counter_power_is_added_up_over_time(steps) -> None:
    total, now_ns, expected_j, before = EnergySum(SECOND_NS), 0, 0.0, None
    for passed_s, power_w in steps:
        passed_ns = round(passed_s * 1e9)
        now_ns += passed_ns
        total.add(now_ns, FastReading(power_w=power_w), None)
        if before is not None:
            expected_j += (before + power_w) / 2 * passed_ns / 1e9
        before = power_w
    assert total.joules == pytest.approx(expected_j, rel=1e-9, abs=1e-12)


def test_a_counter_that_starts_again_with_the_driver_goes_on_from_where_it_stands() -> None:
    total = energy((0, counted(5_000_000)), (1, counted(5_050_000)), (20, counted(100)), (21, counted(40_100)))
    assert total.joules == pytest.approx(50 + 40)


def test_a_counter_that_leaps_further_than_the_device_can_draw_is_not_believed() -> None:
    total = energy((0, counted(1_000)), (1, counted(9_000_000_000)), (2, counted(9_000_030_000)))
    assert total.joules == pytest.approx(30)


def test_what_the_counter_went_up_by_in_a_pause_is_counted() -> None:
    assert energy((0, counted(0)), (600, counted(30_000_000))).joules == pytest.approx(30_000)


def test_power_is_not_guessed_over_a_pause() -> None:
    watts = FastReading(power_w=100.0)
    assert energy((0, watts), (0.5, watts), (60, watts), (60.5, watts)).joules == pytest.approx(100)


def test_a_counter_that_is_missed_once_is_not_replaced_by_power() -> None:
    total = energy((0, counted(0)), (0.1, FastReading(power_w=50.0)), (0.2, counted(4_000)))
    assert total.joules == pytest.approx(4)


def test_a_device_that_tells_neither_has_no_energy() -> None:
    assert energy((0, FastReading()), (1, FastReading(memory_used_bytes=1))).joules is None


def test_before_the_first_round_there_is_no_snapshot() -> None:
    assert Track(T4, 10, SECOND_NS).snapshot() is None


def test_a_device_that_never_answered_has_a_snapshot_that_says_so() -> None:
    track = Track(T4, 10, SECOND_NS)
    track.lose(7)
    snapshot = track.snapshot()
    assert snapshot is not None
    assert (snapshot.lost, snapshot.monotonic_ns, snapshot.fast, snapshot.energy_j) == (True, 7, FastReading(), None)


def test_while_a_device_is_lost_its_snapshot_shows_the_last_reading_and_its_history_a_gap() -> None:
    track = Track(T4, 10, SECOND_NS)
    track.slow = SlowReading(temperature_c=61.0, throttle_reasons=("sw_power_cap",))
    taken = track.take(SECOND_NS, FastReading(memory_used_bytes=5, energy_mj=1))
    lost = track.lose(2 * SECOND_NS)
    snapshot = track.snapshot()
    assert snapshot is not None
    assert (snapshot.lost, snapshot.monotonic_ns, snapshot.fast) == (True, SECOND_NS, taken.fast)
    assert (lost.lost, lost.fast, lost.temperature_c) == (True, FastReading(), 61.0)
    back = track.take(9 * SECOND_NS, FastReading(memory_used_bytes=6, energy_mj=2))
    assert track.history.between(0, 10 * SECOND_NS) == [taken, back]
    assert not track.snapshot().lost
