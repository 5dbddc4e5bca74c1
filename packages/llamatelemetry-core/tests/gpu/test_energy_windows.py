"""Windows follow each other, hold what the counter counted, and invent nothing where it was not read."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llamatelemetry.gpu.energy import Claim, EnergyMethod, EnergyWindow, RequestEnergy, split_window
from llamatelemetry.gpu.energy_windows import IdlePower, WindowMaker

MS = 1_000_000
START_MJ = 123_456_789

Reading = tuple[int, int | None, float | None]
"""Milliseconds, counter, power."""


def windows_of(readings: list[Reading], maker: WindowMaker | None = None) -> list[EnergyWindow]:
    maker = maker or WindowMaker()
    made = (maker.feed(ms * MS, energy_mj, power_w) for ms, energy_mj, power_w in readings)
    return [window for window in made if window is not None]


def spans(windows: list[EnergyWindow]) -> list[tuple[int, int, float]]:
    return [(window.start_ns // MS, window.end_ns // MS, window.energy_j) for window in windows]


def stepping(ms: float, *, period_ms: float, phase_ms: float, power_w: float = 100.0) -> int:
    """A counter that moves every ``period_ms`` and then tells all that was drawn so far."""
    return START_MJ + int(math.floor((ms - phase_ms) / period_ms) * period_ms * power_w)


@st.composite
def sampled(draw: st.DrawFn) -> list[Reading]:
    """A stepping counter of any period, read at any moments, now and then not at all."""
    period_ms = draw(st.integers(5, 400))
    phase_ms = draw(st.integers(0, 400))
    gaps_ms = draw(st.lists(st.integers(1, 300), min_size=2, max_size=60))
    silent = draw(st.lists(st.booleans(), min_size=len(gaps_ms), max_size=len(gaps_ms)))
    powers = draw(st.lists(st.none() | st.floats(0, 700), min_size=len(gaps_ms), max_size=len(gaps_ms)))
    readings: list[Reading] = []
    now_ms, drawn_mj = 1000, 0.0
    moved_ms = -math.inf
    shown_mj = 0
    for gap_ms, is_silent, power_w in zip(gaps_ms, silent, powers, strict=True):
        now_ms += gap_ms
        drawn_mj += gap_ms * draw(st.integers(0, 700))
        if (now_ms - phase_ms) // period_ms != moved_ms:
            moved_ms, shown_mj = (now_ms - phase_ms) // period_ms, round(drawn_mj)
        # Never two in a row, so that the device is not silent for long.
        hushed = is_silent and not (readings and readings[-1][1] is None)
        readings.append((now_ms, None if hushed else START_MJ + shown_mj, None if hushed else power_w))
    return readings


@given(sampled())
def test_windows_follow_each_other_and_hold_the_counters_difference(readings: list[Reading]):
    windows = windows_of(readings)
    # Where a counter stands still for two seconds is another test's matter.
    assume(all(window.method is EnergyMethod.COUNTER for window in windows))

    answered = {ms * MS: energy_mj for ms, energy_mj, _ in readings if energy_mj is not None}
    assert all(one.end_ns == other.start_ns for one, other in pairwise(windows))
    assert all(window.energy_j >= 0 and window.step_j >= 0 for window in windows)
    if windows:
        assert windows[0].start_ns == min(answered)
        difference_mj = answered[windows[-1].end_ns] - answered[windows[0].start_ns]
        assert math.isclose(sum(window.energy_j for window in windows), difference_mj / 1000, rel_tol=1e-9)


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Any requests in any overlap: begin and end in ms, tokens."""
    pairs = st.tuples(st.integers(0, 9000), st.integers(1, 6000), st.integers(0, 300))
    return [(begin, begin + length, tokens) for begin, length, tokens in draw(st.lists(pairs, max_size=8))]


@given(
    readings=sampled(),
    requests=requests(),
    idle_w=st.none() | st.floats(0, 300),
    attributable=st.floats(0, 1),
)
def test_whatever_overlaps_requests_idle_and_rest_are_what_the_meter_counted(
    *, readings: list[Reading], requests: list[tuple[int, int, int]], idle_w: float | None, attributable: float
):
    maker, idle = WindowMaker(), IdlePower()
    energies = [RequestEnergy() for _ in requests]
    parts: list[float] = []
    windows = windows_of(readings, maker)
    for window in windows:
        idle.feed(window)
        here = [
            (energy, Claim(overlap_ns=overlap_ns, decode_tokens=tokens * overlap_ns / ((end - begin) * MS)))
            for energy, (begin, end, tokens) in zip(energies, requests, strict=True)
            if (overlap_ns := min(window.end_ns, end * MS) - max(window.start_ns, begin * MS)) > 0
        ]
        split = split_window(
            window,
            [claim for _, claim in here],
            idle_w=idle.watts if idle_w is None else idle_w,
            attributable=attributable,
        )
        parts += [split.idle_j, split.unattributed_j]
        for (energy, claim), share_j, margin_j in zip(here, split.shares_j, split.margins_j, strict=True):
            energy.add(window, claim, share_j=share_j, margin_j=margin_j)

    total = math.fsum((*parts, *(energy.energy_j for energy in energies)))
    assert math.isclose(total, math.fsum(window.energy_j for window in windows), rel_tol=1e-9)
    counted = {ms * MS: energy_mj for ms, energy_mj, _ in readings if energy_mj is not None}
    if windows and all(window.method is EnergyMethod.COUNTER for window in windows):
        difference_mj = counted[windows[-1].end_ns] - counted[windows[0].start_ns]
        assert math.isclose(total, difference_mj / 1000, rel_tol=1e-9)
    assert min((0.0, *parts, *(energy.energy_j for energy in energies))) == 0
    assert all(energy.uncertainty_j >= 0 for energy in energies)


def test_a_counter_that_did_not_move_extends_the_window():
    windows = windows_of([(0, 1000, None), (100, 3000, None), (200, 3000, None), (300, 7000, None)])

    assert spans(windows) == [(0, 100, 2.0), (100, 300, 4.0)]


def test_the_window_that_is_open_says_since_when():
    maker = WindowMaker()
    before = maker.open_since_ns
    windows_of([(0, 1000, None), (100, 3000, None), (200, 3000, None)], maker)

    assert (before, maker.open_since_ns) == (None, 100 * MS)


@pytest.mark.parametrize("phase_ms", [0, 3, 50, 97])
def test_a_counter_at_10_hz_read_at_10_hz_with_jitter_is_followed(phase_ms: int):
    jitter = (0, 4, -3, 2, -4, 1, 3, -2)
    moments = [100 * i + jitter[i % len(jitter)] for i in range(1, 200)]
    maker = WindowMaker()
    windows = windows_of([(ms, stepping(ms, period_ms=100, phase_ms=phase_ms), None) for ms in moments], maker)

    assert all(one.end_ns == other.start_ns for one, other in pairwise(windows))
    assert maker.counter_period_s is not None
    assert 0.099 < maker.counter_period_s < 0.2
    assert sum(window.energy_j for window in windows) == pytest.approx(100.0 * 19.8, abs=10.0)
    for window in windows:
        assert abs(window.energy_j - 100.0 * window.duration_s) <= 10.0 + 1e-9  # One step of the counter.
        assert window.step_j >= 0.85 * 10.0 * window.energy_j / (100.0 * window.duration_s)


def test_the_period_of_a_counter_slower_than_the_sampling_is_seen():
    maker = WindowMaker()
    windows_of([(ms, stepping(ms, period_ms=500, phase_ms=20), None) for ms in range(0, 20_000, 100)], maker)

    assert maker.counter_period_s == pytest.approx(0.5)


def test_a_fast_request_inside_one_counter_period_is_interpolated():
    (window,) = windows_of([(0, 0, None), (100, 9_000, None)])
    claim = Claim(overlap_ns=30 * MS, prefill_tokens=40, decode_tokens=1)
    split = split_window(window, [claim], idle_w=40.0)
    request = RequestEnergy()
    request.add(window, claim, share_j=split.shares_j[0], margin_j=split.margins_j[0])

    assert (request.energy_j, request.method) == (5.0, EnergyMethod.INTERPOLATED)
    assert request.uncertainty_j == pytest.approx(5.0)


def test_without_a_counter_power_is_added_up():
    windows = windows_of([(0, None, 50.0), (100, None, 70.0), (300, None, 70.0)])

    assert spans(windows) == [(0, 100, pytest.approx(6.0)), (100, 300, pytest.approx(14.0))]
    assert {window.method for window in windows} == {EnergyMethod.POWER}
    assert [window.step_j for window in windows] == pytest.approx([1.0, 0.0])


def test_power_is_not_added_up_across_a_pause():
    windows = windows_of([(0, None, 50.0), (5_000, None, 50.0), (5_100, None, 50.0)])

    assert spans(windows) == [(5_000, 5_100, pytest.approx(5.0))]


def test_a_pause_of_the_sampler_loses_nothing_of_a_counter():
    windows = windows_of([(0, 0, 50.0), (100, 5_000, 50.0), (60_100, 3_005_000, 50.0), (60_200, 3_010_000, 50.0)])

    assert spans(windows) == [(0, 100, 5.0), (100, 60_100, 3000.0), (60_100, 60_200, 5.0)]


def test_what_a_counter_holds_back_is_all_of_a_window_unless_the_sampler_paused():
    steady: list[Reading] = [(ms, ms * 50, None) for ms in range(0, 5_000, 100)]
    waited: list[Reading] = [(5_000, 4_900 * 50, None), (5_100, 5_000 * 50, None)]
    windows = windows_of([*steady, *waited, (6_100, 6_000 * 50, None)])

    assert [window.step_j for window in windows[:-1]] == [window.energy_j for window in windows[:-1]]
    assert windows[-1].step_j == pytest.approx(windows[-1].energy_j / 10, rel=0.1)


def test_a_reading_that_fails_in_between_loses_nothing():
    assert spans(windows_of([(0, 0, None), (100, None, None), (200, 9_000, None)])) == [(0, 200, 9.0)]


def test_what_a_device_drew_while_it_did_not_answer_for_long_is_in_no_window():
    silent: list[Reading] = [(ms, None, None) for ms in range(200, 3000, 100)]
    windows = windows_of([(0, 0, 50.0), (100, 5_000, 50.0), *silent, (3_000, 200_000, 50.0), (3_100, 205_000, 50.0)])

    assert spans(windows) == [(0, 100, 5.0), (3_000, 3_100, 5.0)]


def test_a_reset_forgets_the_last_reading():
    maker = WindowMaker()
    windows_of([(0, 0, 50.0), (100, 5_000, 50.0)], maker)
    maker.reset()

    assert maker.open_since_ns is None
    assert spans(windows_of([(200, 70_000, 50.0), (300, 75_000, 50.0)], maker)) == [(200, 300, 5.0)]


def test_a_counter_that_goes_back_begins_anew_and_gives_no_negative_energy():
    windows = windows_of([(0, 900_000, 50.0), (100, 2_000, 50.0), (200, 7_000, 50.0)])

    assert spans(windows) == [(100, 200, 5.0)]


def test_a_counter_that_stands_still_is_replaced_by_power_until_it_moves():
    standing: list[Reading] = [(ms, 5_000, 50.0) for ms in range(100, 2400, 100)]
    windows = windows_of([(0, 0, 50.0), *standing, (2_400, 900_000, 50.0), (2_500, 905_000, 50.0)])

    methods = [window.method for window in windows]
    assert methods == [EnergyMethod.COUNTER, *[EnergyMethod.POWER] * 3, EnergyMethod.COUNTER]
    assert all(one.end_ns == other.start_ns for one, other in pairwise(windows))
    # Power covered the time, so the counter's leap is not counted a second time.
    assert sum(window.energy_j for window in windows) == pytest.approx(50.0 * 2.5)


def test_a_counter_that_stands_still_without_power_says_nothing_was_drawn_and_is_unsure():
    standing: list[Reading] = [(ms, 5_000, None) for ms in range(100, 2400, 100)]
    windows = windows_of([(0, 0, None), *standing, (2_400, 120_000, None)])

    assert spans(windows) == [(0, 100, 5.0), (100, 2_200, 0.0), (2_200, 2_400, 115.0)]
    assert windows[1].step_j == pytest.approx(50.0 * 2.1)


def test_a_counter_that_is_refused_for_long_is_replaced_by_power():
    refused: list[Reading] = [(ms, None, 50.0) for ms in range(100, 2400, 100)]
    windows = windows_of([(0, 0, 50.0), *refused, (2_400, 900_000, 50.0), (2_500, 905_000, 50.0)])

    assert sum(window.energy_j for window in windows) == pytest.approx(50.0 * 2.5)
    assert {window.method for window in windows[:-1]} == {EnergyMethod.POWER}


def test_a_counter_that_stands_still_says_nothing_of_time_in_which_power_was_not_read_either():
    standing: list[Reading] = [(ms, 5_000, 50.0) for ms in range(0, 2400, 100)]
    windows = windows_of([*standing, (2_400, 5_000, None), (2_500, 5_000, 50.0), (2_600, 5_000, 50.0)])

    assert spans(windows)[-1] == (2_500, 2_600, pytest.approx(5.0))
    assert 2_400 not in {end for _, end, _ in spans(windows)}


def test_a_counter_that_appears_takes_over_from_power():
    windows = windows_of([(0, None, 50.0), (100, None, 50.0), (200, 1_000, 50.0), (300, 6_000, 50.0)])

    assert [window.method for window in windows] == [EnergyMethod.POWER, EnergyMethod.POWER, EnergyMethod.COUNTER]
    assert sum(window.energy_j for window in windows) == pytest.approx(15.0)


def test_a_reading_that_is_not_later_is_ignored():
    assert spans(windows_of([(100, 0, None), (100, 5_000, None), (50, 7_000, None), (200, 9_000, None)])) == [
        (100, 200, 9.0)
    ]


def idle_after(readings: list[Reading]) -> float | None:
    idle = IdlePower()
    for window in windows_of(readings):
        idle.feed(window)
    return idle.watts


def test_idle_power_is_not_known_before_a_second_has_passed():
    assert idle_after([(ms, ms * 30, None) for ms in range(0, 1000, 100)]) is None


def test_idle_power_is_the_least_of_any_second_and_is_kept_when_work_comes():
    readings: list[Reading] = []
    drawn_mj = 0
    for ms in range(0, 60_000, 100):
        drawn_mj += 100 * (30 if 20_000 <= ms < 25_000 else 250)
        readings.append((ms, drawn_mj, None))

    assert idle_after(readings) == pytest.approx(30.0, rel=0.05)


@given(
    period_ms=st.integers(20, 250),
    phase_ms=st.integers(0, 250),
    jitter=st.lists(st.integers(-30, 30), min_size=120, max_size=120),
    busy=st.integers(0, 110),
)
def test_idle_power_is_never_less_than_was_drawn_but_for_one_step_of_the_counter(
    *, period_ms: int, phase_ms: int, jitter: list[int], busy: int
):
    moments = [100 * i + offset for i, offset in enumerate(jitter, start=3)]

    def drawn_mj(ms: float) -> int:
        step_ms = math.floor((ms - phase_ms) / period_ms) * period_ms
        return int(step_ms * 40 + max(0.0, step_ms - busy * 100) * 160) + START_MJ

    watts = idle_after([(ms, drawn_mj(ms), None) for ms in moments])

    assert watts is not None
    assert watts >= 40.0 * (1 - (period_ms + 60) / 1000)


@pytest.mark.parametrize("period_ms", [20, 97, 100, 103, 250])
def test_ten_quiet_seconds_tell_idle_power_to_three_percent(period_ms: int):
    drawn_mj = shown_mj = 0
    readings: list[Reading] = []
    for ms in range(25_000):
        drawn_mj += 30 if ms < 1_500 or 10_000 <= ms < 20_000 else 250
        if ms % period_ms == 0:
            shown_mj = drawn_mj
        if ms % 100 == 50:
            readings.append((ms, shown_mj, None))

    assert idle_after(readings) == pytest.approx(30.0, rel=0.03)


def test_idle_power_does_not_span_a_time_that_was_not_measured():
    quiet: list[Reading] = [(ms, None, 30.0) for ms in range(0, 900, 100)]
    again: list[Reading] = [(ms, None, 30.0) for ms in range(9_000, 9_900, 100)]

    assert idle_after([*quiet, *again]) is None
    assert idle_after([*quiet, *again, (9_900, None, 30.0), (10_000, None, 30.0)]) == pytest.approx(30.0)
