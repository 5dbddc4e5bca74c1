from __future__ import annotations

import gc
import itertools
import logging
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from llamatelemetry.clock import Clock, ManualClock
from llamatelemetry.errors import InvalidValueError, UnknownNameError
from llamatelemetry.gpu.device import (
    DriverState,
    DriverStatus,
    FastReading,
    GPUDevice,
    GPUProcess,
    RareReading,
    SlowReading,
)
from llamatelemetry.gpu.sampler import GPUSampler
from llamatelemetry.gpu.snapshot import Tick

SECOND_NS = 1_000_000_000
THREAD = "llamatelemetry-gpu"

READY = DriverStatus(state=DriverState.READY, message="made up")


def made_up(count: int) -> tuple[GPUDevice, ...]:
    return tuple(GPUDevice(index=n, uuid=f"GPU-{n}", name="made up", power_limit_w=70.0) for n in range(count))


class MadeUpReader:
    """Draws 50 W by the clock, and does to its caller what no driver does when asked to: raises, hangs."""

    def __init__(self, devices: tuple[GPUDevice, ...], now_ns) -> None:
        self.present = devices
        self.devices: tuple[GPUDevice, ...] = ()
        self.status = READY
        self.opens_as = READY
        self.lost: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.threads: set[int] = set()
        self.raises: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self._now_ns = now_ns
        self._zero_ns = now_ns()

    def open(self) -> DriverStatus:
        self._called("open")
        self.status = self.opens_as
        self.devices = self.present if self.status.state is DriverState.READY else ()
        return self.status

    def close(self) -> None:
        self._called("close")
        self.devices = ()

    def fast(self, device: GPUDevice) -> FastReading | None:
        self._called("fast", device)
        if device.uuid in self.lost:
            return None
        drawn_mj = (self._now_ns() - self._zero_ns) * 50 // 1_000_000
        return FastReading(
            memory_used_bytes=self.calls["fast"],
            utilization=0.5,
            power_w=50.0,
            energy_mj=drawn_mj,
        )

    def slow(self, device: GPUDevice) -> SlowReading:
        self._called("slow", device)
        return SlowReading(temperature_c=40.0 + self.calls["slow"], throttle_reasons=())

    def rare(self, device: GPUDevice) -> RareReading:
        self._called("rare", device)
        return RareReading(processes=(GPUProcess(pid=self.calls["rare"]),))

    def absences(self, device: GPUDevice) -> dict[str, str]:
        return {}

    def restart_driver(self) -> None:
        """The devices are back, counted anew, and so are their counters."""
        self.lost.clear()
        self.present = tuple(replace(device, index=device.index + 1) for device in self.present)
        self._zero_ns = self._now_ns()

    def _called(self, what: str, device: GPUDevice | None = None) -> None:
        self.calls[what] += 1
        if device is not None:
            self.calls[f"{what} {device.uuid}"] += 1
        self.threads.add(threading.get_ident())
        self.entered.set()
        self.gate.wait()
        if what in self.raises:
            raise self.raises[what]


class ByHand:
    """A sampler without a thread, on a clock that a test moves."""

    def __init__(self, devices: int, *, interval_s: float = 0.1, retention_s: float = 600.0) -> None:
        self.time = ManualClock(start_ns=0)
        self.reader = MadeUpReader(made_up(devices), self.time.now_ns)
        self.sampler = GPUSampler(
            self.reader, interval_s=interval_s, retention_s=retention_s, clock=self.time.clock, background=False
        )

    def run(self, seconds: float) -> list[Tick]:
        ticks = []
        for _ in range(round(seconds / self.sampler.interval_s)):
            tick = self.sampler.tick()
            assert tick is not None
            ticks.append(tick)
            self.time.advance(self.sampler.interval_s)
        return ticks


class Alive:
    """A sampler with its thread, which waits for real; its clock moves when a test says so."""

    def __init__(self, devices: int = 1, clock: Clock | None = None) -> None:
        self.time = ManualClock(start_ns=0)
        self.reader = MadeUpReader(made_up(devices), self.time.now_ns)
        self.sampler = GPUSampler(self.reader, interval_s=0.01, retention_s=1, clock=clock or self.time.clock)

    def next_round(self, seconds: float = 0.01) -> None:
        self.time.advance(seconds)
        assert self.sampler.wait_past(self.time.now_ns(), 10)


@pytest.fixture
def alive() -> Iterator[Alive]:
    alive = Alive()
    yield alive
    alive.reader.gate.set()
    alive.sampler.close()
    assert not threads()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD]


def energy_j(sampler: GPUSampler) -> float | None:
    (snapshot,) = sampler.snapshots()
    return snapshot.energy_j


# Rounds


def test_a_round_has_one_sample_of_each_device_and_none_is_older_than_it() -> None:
    bench = ByHand(3)
    (first, second) = bench.run(0.2)
    assert [sample.uuid for sample in first.samples] == ["GPU-0", "GPU-1", "GPU-2"]
    assert all(sample.monotonic_ns >= first.monotonic_ns for sample in first.samples)
    assert second.monotonic_ns - first.monotonic_ns == SECOND_NS // 10
    assert [device.uuid for device in bench.sampler.devices] == ["GPU-0", "GPU-1", "GPU-2"]
    assert all(sample.temperature_c is not None for sample in first.samples)


def test_snapshots_show_the_latest_of_every_rate() -> None:
    bench = ByHand(1)
    assert bench.sampler.snapshots() == ()
    bench.run(2)
    (snapshot,) = bench.sampler.snapshots()
    assert snapshot.monotonic_ns == round(1.9 * SECOND_NS)
    assert snapshot.fast.memory_used_bytes == 20
    assert snapshot.slow.temperature_c == 40 + bench.reader.calls["slow"]
    assert snapshot.rare.processes == (GPUProcess(pid=1),)
    assert snapshot.energy_j == pytest.approx(50 * 1.9)


@pytest.mark.parametrize("devices", [1, 2, 8, 16])
def test_each_figure_is_read_at_its_own_rate_whatever_the_number_of_devices(devices) -> None:
    bench = ByHand(devices)
    bench.run(60)
    # Rare readings are a second apart, whoever's they are, but for the first of each device.
    rare = 60 / max(5, devices)
    for device in bench.sampler.devices:
        assert bench.reader.calls[f"fast {device.uuid}"] == 600
        assert 59 <= bench.reader.calls[f"slow {device.uuid}"] <= 62
        assert rare - 1 <= bench.reader.calls[f"rare {device.uuid}"] <= rare + 2


def test_no_round_takes_more_than_one_rare_reading_and_slow_ones_are_spread() -> None:
    bench = ByHand(16)
    bench.run(0.1)
    taken = [0]
    for number in range(1, 600):
        before = bench.reader.calls.copy()
        bench.run(0.1)
        taken += [number] * (bench.reader.calls["rare"] - before["rare"])
        assert bench.reader.calls["slow"] - before["slow"] <= 2
    # At first each device has one, one after the other; from then on there is a second between any two.
    assert taken[:16] == list(range(16))
    assert {later - earlier for earlier, later in itertools.pairwise(taken[16:])} == {10}


def test_after_a_long_stop_nothing_is_read_twice_to_make_up_for_it() -> None:
    bench = ByHand(8)
    bench.run(10)
    bench.time.advance(3600)
    before = bench.reader.calls.copy()
    bench.run(0.9)
    for device in bench.sampler.devices:
        assert bench.reader.calls[f"fast {device.uuid}"] - before[f"fast {device.uuid}"] == 9
        assert bench.reader.calls[f"slow {device.uuid}"] - before[f"slow {device.uuid}"] == 1
    assert bench.reader.calls["rare"] - before["rare"] == 1


@pytest.mark.parametrize("interval_s", [0.05, 0.1, 0.35, 1.0, 7.0])
def test_rounds_that_come_a_little_early_or_late_do_not_put_slow_readings_off(interval_s) -> None:
    bench = ByHand(3, interval_s=interval_s)
    rounds = round(700 / interval_s)
    for number in range(rounds):
        bench.sampler.tick()
        bench.time.advance(interval_s * (1.05, 0.95)[number % 2])
    expected = min(rounds, 700 / max(1, interval_s))
    assert expected * 0.85 <= bench.reader.calls["slow GPU-0"] <= expected * 1.1 + 1


def test_a_rare_reading_comes_after_the_listeners_were_told() -> None:
    bench = ByHand(1)
    seen = []
    bench.sampler.subscribe(lambda _: seen.append(bench.reader.calls["rare"]))
    bench.sampler.tick()
    assert seen == [0]
    assert bench.reader.calls["rare"] == 1


def test_a_look_at_everything_reads_what_is_not_due_too() -> None:
    bench = ByHand(4)
    bench.sampler.tick(everything=True)
    assert all(snapshot.rare.processes is not None for snapshot in bench.sampler.snapshots())


def test_history_keeps_what_was_asked_for_and_no_more() -> None:
    bench = ByHand(1, retention_s=2)
    bench.run(5)
    history = bench.sampler.history("GPU-0")
    times = [sample.monotonic_ns for sample in history.between(0, 5 * SECOND_NS)]
    assert times == [n * SECOND_NS // 10 for n in range(29, 50)]


def test_the_history_of_a_device_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    bench = ByHand(2)
    bench.run(0.1)
    with pytest.raises(UnknownNameError, match="GPU-0, GPU-1"):
        bench.sampler.history("GPU-7")


# Losses


def test_a_device_that_is_lost_is_marked_leaves_a_gap_and_the_others_go_on(caplog) -> None:
    bench = ByHand(2)
    bench.run(1)
    bench.reader.lost.add("GPU-0")
    ticks = bench.run(3)
    assert [[sample.lost for sample in tick.samples] for tick in ticks] == [[True, False]] * 30
    assert [snapshot.lost for snapshot in bench.sampler.snapshots()] == [True, False]
    assert len(bench.sampler.history("GPU-0")) == 10
    assert len(bench.sampler.history("GPU-1")) == 40
    assert bench.reader.calls["fast GPU-0"] == 11
    assert [record.levelno for record in caplog.records if "GPU-0" in record.message] == [logging.WARNING]


def test_a_device_that_comes_back_under_another_index_is_the_same_by_its_uuid() -> None:
    bench = ByHand(1)
    bench.run(1)
    drawn_before = energy_j(bench.sampler)
    bench.reader.lost.add("GPU-0")
    bench.run(4.9)
    assert bench.reader.calls["open"] == 1
    bench.reader.restart_driver()
    bench.run(0.2)
    assert bench.reader.calls["open"] == 2
    (snapshot,) = bench.sampler.snapshots()
    assert (snapshot.lost, snapshot.device.index) == (False, 1)
    assert energy_j(bench.sampler) == drawn_before  # The counter began again, and nothing was drawn by it yet.
    bench.run(1)
    assert energy_j(bench.sampler) == pytest.approx(drawn_before + 50, abs=0.1)
    times = [sample.monotonic_ns / SECOND_NS for sample in bench.sampler.history("GPU-0").between(0, 10 * SECOND_NS)]
    assert times == sorted(times)
    assert [later - sooner for sooner, later in pairwise(times) if later - sooner > 0.11] == [
        pytest.approx(5.1, abs=0.11)
    ]


def test_a_device_that_stays_away_is_looked_for_every_five_seconds_and_then_less_and_less() -> None:
    bench = ByHand(2)
    bench.run(0.1)
    bench.reader.lost.add("GPU-0")
    bench.run(21)
    assert 4 <= bench.reader.calls["open"] - 1 <= 5
    bench.run(3600)
    assert 60 <= bench.reader.calls["open"] - 1 <= 80


def test_a_driver_that_is_gone_makes_all_devices_lost_until_it_answers_again(caplog) -> None:
    caplog.set_level(logging.INFO)
    bench = ByHand(2)
    bench.run(1)
    bench.reader.lost.add("GPU-0")
    bench.reader.opens_as = DriverStatus(state=DriverState.NO_DRIVER, message="it is being replaced")
    ticks = bench.run(6)
    assert [sample.lost for sample in ticks[-1].samples] == [True, True]
    bench.reader.lost.clear()
    bench.reader.opens_as = READY
    ticks = bench.run(6)
    assert [sample.lost for sample in ticks[-1].samples] == [False, False]
    assert sum("answers again" in record.message for record in caplog.records) == 2


def test_a_device_that_the_driver_lists_no_more_is_forgotten_once_its_history_is_too_old() -> None:
    bench = ByHand(2, retention_s=30)
    bench.run(1)
    bench.reader.lost.add("GPU-1")
    bench.reader.present = bench.reader.present[:1]
    bench.run(20)
    assert [device.uuid for device in bench.sampler.devices] == ["GPU-0", "GPU-1"]
    bench.run(40)
    assert [device.uuid for device in bench.sampler.devices] == ["GPU-0"]
    opened = bench.reader.calls["open"]
    bench.run(120)
    assert bench.reader.calls["open"] == opened


def test_a_reader_that_raises_is_taken_for_no_answer_and_logged_once(caplog) -> None:
    bench = ByHand(2)
    for what in ("fast", "slow", "rare", "close"):
        bench.reader.raises[what] = RuntimeError("a defect")
    ticks = bench.run(10)
    assert {sample.fast for tick in ticks for sample in tick.samples} == {FastReading()}
    assert not any(sample.lost for tick in ticks for sample in tick.samples)
    bench.sampler.close()
    assert len(caplog.records) == 4
    bench.reader.raises.clear()
    (tick,) = bench.run(0.1)
    assert all(sample.fast.power_w == 50 for sample in tick.samples)


def test_a_figure_that_no_driver_could_mean_does_not_stop_the_round() -> None:
    bench = ByHand(2)
    bench.reader._zero_ns = -(10**30)
    (tick,) = bench.run(0.1)
    assert [sample.fast for sample in tick.samples] == [FastReading(), FastReading()]


def test_a_reader_that_raises_when_it_is_opened_is_as_good_as_no_driver(caplog) -> None:
    caplog.set_level(logging.INFO)
    bench = ByHand(1)
    bench.reader.raises["open"] = RuntimeError("a defect")
    assert bench.sampler.tick() is None
    assert bench.sampler.snapshots() == ()
    assert any("no GPU figures" in record.message for record in caplog.records)


# The thread


def test_nothing_is_read_before_anybody_listens_nor_after_the_last_one_stopped(alive) -> None:
    assert not alive.reader.calls
    assert not threads()
    first, second = alive.sampler.subscribe(), alive.sampler.subscribe()
    alive.next_round()
    assert len(threads()) == 1
    first.close()
    alive.next_round()
    second.close()
    second.close()
    assert not threads()
    assert (alive.reader.calls["open"], alive.reader.calls["close"]) == (1, 1)
    read = alive.reader.calls.copy()
    alive.time.advance(100)
    assert alive.reader.calls == read


def test_the_reader_is_called_in_one_thread_only_and_never_in_a_listeners(alive) -> None:
    with alive.sampler.subscribe():
        for _ in range(20):
            alive.next_round()
            alive.sampler.snapshots()
            _ = alive.sampler.history("GPU-0").latest
    assert len(alive.reader.threads) == 1
    assert threading.get_ident() not in alive.reader.threads


def test_who_listens_again_finds_history_and_energy_going_on(alive) -> None:
    with alive.sampler.subscribe():
        assert alive.sampler.wait_past(0, 10)
        alive.next_round()
    with alive.sampler.subscribe():
        alive.next_round(0.5)
        assert energy_j(alive.sampler) == pytest.approx(50 * 0.51)
    assert alive.reader.calls["open"] == 2
    assert len(alive.sampler.history("GPU-0")) >= 2


def test_rounds_keep_to_the_schedule_and_those_missed_are_skipped_and_counted(alive) -> None:
    ticks = []
    with alive.sampler.subscribe(lambda tick: ticks.append(tick.monotonic_ns)):
        assert alive.sampler.wait_past(0, 10)
        alive.next_round(0.013)
        alive.next_round(0.007)  # Due at 0.02, whatever came before.
        alive.next_round(0.055)  # At 0.075: those due at 0.03 and then to 0.07 are one.
        alive.next_round(0.005)
    assert ticks == [0, 13_000_000, 20_000_000, 75_000_000, 80_000_000]
    assert alive.sampler.skipped_rounds == 4


def test_listeners_are_told_before_those_who_wait_go_on(alive) -> None:
    told = []
    with alive.sampler.subscribe(told.append):
        for _ in range(50):
            alive.next_round()
            assert told[-1].monotonic_ns >= alive.time.now_ns()


def test_waiting_for_a_moment_that_was_sampled_already_returns_at_once(alive) -> None:
    with alive.sampler.subscribe():
        alive.next_round()
        alive.reader.gate.clear()
        assert alive.sampler.wait_past(alive.time.now_ns(), 0)
        assert not alive.sampler.wait_past(alive.time.now_ns() + 1, 0)
        alive.reader.gate.set()
    assert alive.sampler.wait_past(0, 0)


def test_nobody_waits_for_a_sampler_that_nobody_started(alive) -> None:
    assert not alive.sampler.wait_past(0, 3600)


def test_nobody_waits_for_a_driver_that_hangs_and_closing_does_not_either(alive) -> None:
    subscription = alive.sampler.subscribe()
    alive.next_round()
    alive.reader.gate.clear()
    alive.reader.entered.clear()
    alive.time.advance(0.01)
    assert alive.reader.entered.wait(10)
    alive.time.advance(1.5)
    assert not alive.sampler.wait_past(alive.time.now_ns(), 3600)
    assert len(alive.sampler.snapshots()) == 1
    subscription.close()
    assert len(threads()) == 1
    assert alive.reader.calls["close"] == 0
    (thread,) = (each for each in threading.enumerate() if each.name == THREAD)
    alive.reader.gate.set()
    thread.join(10)
    assert alive.reader.calls["close"] == 1


def test_who_subscribes_while_the_driver_hangs_gets_the_thread_that_hangs_once_it_goes_on(alive) -> None:
    alive.sampler.subscribe()
    alive.next_round()
    alive.reader.gate.clear()
    alive.reader.entered.clear()
    alive.time.advance(0.01)
    assert alive.reader.entered.wait(10)
    alive.sampler.close()
    with alive.sampler.subscribe():
        assert len(threads()) == 1
        alive.reader.gate.set()
        alive.next_round()
    assert len(alive.reader.threads) == 1


def test_a_listener_that_raises_is_logged_once_told_again_and_harms_nobody(alive, caplog) -> None:
    told, others = [], []

    def on_tick(tick: Tick) -> None:
        told.append(tick)
        if len(told) % 9:
            raise RuntimeError("a defect")

    with alive.sampler.subscribe(on_tick), alive.sampler.subscribe(others.append):
        for _ in range(40):
            alive.next_round()
    assert told[-40:] == others[-40:]
    assert len(caplog.records) == 1


def test_a_listener_that_raises_ten_times_in_a_row_is_told_no_more(alive, caplog) -> None:
    told, others = [], []

    def on_tick(tick: Tick) -> None:
        told.append(tick)
        raise RuntimeError("a defect")

    with alive.sampler.subscribe(on_tick), alive.sampler.subscribe(others.append):
        for _ in range(20):
            alive.next_round()
    assert len(told) == 10
    assert len(others) >= 20
    assert len(caplog.records) == 2


def test_a_listener_may_close_itself_or_wait_without_hanging_the_thread_it_is_in(alive) -> None:
    answers = []

    def on_tick(tick: Tick) -> None:
        answers.append(alive.sampler.wait_past(tick.monotonic_ns + SECOND_NS, 3600))
        if len(answers) == 2:
            itself.close()

    with alive.sampler.subscribe() as other:
        itself = alive.sampler.subscribe(on_tick)
        for _ in range(5):
            alive.next_round()
    assert answers == [False, False]
    other.close()

    def close_all(tick: Tick) -> None:
        alive.sampler.close()

    alive.sampler.subscribe(close_all)
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(10)
    assert not threads()


def test_without_a_device_it_says_so_once_and_keeps_no_thread(alive, caplog) -> None:
    caplog.set_level(logging.INFO)
    alive.reader.opens_as = DriverStatus(
        state=DriverState.NO_DRIVER, message="No NVIDIA driver was found.", fix="Install one."
    )
    for _ in range(3):
        with alive.sampler.subscribe():
            for thread in threading.enumerate():
                if thread.name == THREAD:
                    thread.join(10)
            assert not threads()
            assert not alive.sampler.wait_past(0, 3600)
            assert alive.sampler.snapshots() == ()
            assert alive.sampler.devices == ()
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.INFO, "no GPU figures: No NVIDIA driver was found. Install one.")
    ]
    assert alive.reader.calls["open"] == 3
    assert alive.reader.calls["fast"] == 0


def test_a_round_by_hand_gives_way_to_one_that_is_under_way(alive) -> None:
    with alive.sampler.subscribe():
        alive.next_round()
        alive.reader.gate.clear()
        alive.reader.entered.clear()
        alive.time.advance(0.01)
        assert alive.reader.entered.wait(10)
        assert alive.sampler.tick() is None
        alive.reader.gate.set()


def test_by_hand_alone_subscribers_are_told_and_closing_closes_the_reader() -> None:
    bench = ByHand(1)
    told: list[Tick] = []
    subscription = bench.sampler.subscribe(told.append)
    assert not threads()
    assert told == []
    assert told == bench.run(0.3)
    assert bench.sampler.wait_past(told[-1].monotonic_ns, 3600)
    assert not bench.sampler.wait_past(told[-1].monotonic_ns + 1, 3600)
    subscription.close()
    assert bench.reader.calls["close"] == 1


def test_a_sampler_that_nobody_holds_is_collected() -> None:
    sampler = weakref.ref(ByHand(1).sampler)
    gc.collect()
    assert sampler() is None


@pytest.mark.parametrize(
    ("interval_s", "retention_s"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0.5), (1, float("inf"))]
)
def test_an_interval_that_cannot_be_kept_is_refused(interval_s, retention_s) -> None:
    with pytest.raises(InvalidValueError, match="give"):
        GPUSampler(MadeUpReader(made_up(1), ManualClock().now_ns), interval_s=interval_s, retention_s=retention_s)


# Processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork_the_child_has_no_thread_until_it_asks_and_opens_the_reader_for_itself(alive) -> None:
    with alive.sampler.subscribe() as subscription:
        alive.next_round()
        kept = len(alive.sampler.history("GPU-0"))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert not threads()
                assert len(alive.sampler.snapshots()) == 1
                assert len(threads()) == 1
                alive.next_round()
                assert alive.reader.calls["open"] == 2
                assert len(alive.sampler.history("GPU-0")) > kept
                subscription.close()
                assert not threads()
                assert alive.reader.calls["close"] == 1
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        alive.next_round()
        assert alive.reader.calls["open"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_in_the_middle_of_a_round_leaves_the_child_no_lock(alive) -> None:
    with alive.sampler.subscribe():
        alive.next_round()
        alive.reader.gate.clear()
        alive.reader.entered.clear()
        alive.time.advance(0.01)
        assert alive.reader.entered.wait(10)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                alive.reader.gate = threading.Event()
                alive.reader.gate.set()
                alive.next_round()
                alive.sampler.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        alive.reader.gate.set()


@pytest.mark.parametrize("hangs", [False, True])
def test_the_interpreter_ends_while_somebody_listens_even_if_the_driver_hangs(hangs) -> None:
    code = f"""
    import threading, time
    from llamatelemetry.gpu.device import *
    from llamatelemetry.gpu.sampler import GPUSampler

    class Reader:
        devices = (GPUDevice(index=0, uuid="GPU-0", name="made up"),)
        status = DriverStatus(state=DriverState.READY, message="")
        inside = threading.Event()
        def open(self): return self.status
        def close(self): print("closed", flush=True)
        def fast(self, device):
            self.inside.set()
            if {hangs}: time.sleep(3600)
            return FastReading()
        def slow(self, device): return SlowReading()
        def rare(self, device): return RareReading()

    GPUSampler(Reader()).subscribe()
    assert Reader.inside.wait(10)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "" if hangs else "closed", "")
