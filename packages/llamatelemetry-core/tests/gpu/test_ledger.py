from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.gpu.account import Account
from llamatelemetry.gpu.device import FastReading, GPUDevice, GPUProcess
from llamatelemetry.gpu.energy import EnergyMethod
from llamatelemetry.gpu.ledger import GPULedger
from llamatelemetry.gpu.snapshot import Sample, Tick
from llamatelemetry.gpu.use import GPUUse
from llamatelemetry.inference.metering import Work

S = 1_000_000_000
GPU0 = GPUDevice(index=0, uuid="GPU-0", name="Tesla T4")
GPU1 = GPUDevice(index=1, uuid="GPU-1", name="Tesla T4")


@dataclass
class Request:
    """A request as the ledger sees one; the test says what was done for it."""

    begun_ns: int
    ended_ns: int | None = None
    token_ns: Sequence[int] = ()
    prefill_tokens: int | None = 100
    gpus: tuple[str, ...] | None = None
    pid: int | None = None

    @property
    def served_by(self) -> ModelInfo:
        return ModelInfo(model="m", provider="llamacpp", gpus=self.gpus, pid=self.pid)

    def work(self) -> Work:
        return Work(
            begun_ns=self.begun_ns,
            dispatched_ns=self.begun_ns,
            token_ns=self.token_ns,
            prefill_tokens=self.prefill_tokens,
            ended_ns=self.ended_ns,
        )


@dataclass
class Bench:
    """A ledger fed by hand: each device draws the watts it is told, and its counter shows all of it at once."""

    devices: tuple[GPUDevice, ...] = (GPU0,)
    idle_w: float | None = 10.0
    processes: dict[str, tuple[GPUProcess, ...]] = field(default_factory=dict)
    patience_s: float = 0.05

    def __post_init__(self) -> None:
        self.ledger = GPULedger(
            lambda: self.devices,
            lambda: self.processes,
            wake=lambda: None,
            patience_s=self.patience_s,
            idle_power_w=self.idle_w,
        )
        self.now_ns = S
        self.counters_mj = dict.fromkeys((device.uuid for device in self.devices), 5_000)
        self.memory = dict.fromkeys(self.counters_mj, 1_000_000)
        self.lost: set[str] = set()
        self.counter_stands = False
        self.tick(0, watts=0)

    def tick(self, seconds: float, *, watts: float) -> None:
        self.now_ns += round(seconds * S)
        samples = []
        for device in self.devices:
            self.counters_mj[device.uuid] += round(watts * seconds * 1000)
            samples.append(self._sample(device.uuid, watts))
        self.ledger.on_tick(Tick(monotonic_ns=self.now_ns, samples=tuple(samples)))

    def _sample(self, uuid: str, watts: float) -> Sample:
        if uuid in self.lost:
            return Sample(uuid=uuid, monotonic_ns=self.now_ns, lost=True)
        shown = 5_000 if self.counter_stands else self.counters_mj[uuid]
        fast = FastReading(memory_used_bytes=self.memory[uuid], utilization=watts / 100, power_w=watts, energy_mj=shown)
        return Sample(
            uuid=uuid, monotonic_ns=self.now_ns, fast=fast, temperature_c=30 + watts / 10, throttle_reasons=()
        )


def use_of(pending: object) -> GPUUse:
    use = pending.wait(0)
    assert isinstance(use, GPUUse)
    return use


def test_a_request_alone_gets_all_above_idle():
    bench = Bench()
    request = Request(begun_ns=bench.now_ns + S // 100)
    pending = bench.ledger.begin(request)
    for _ in range(9):
        bench.tick(0.1, watts=70)
    request.ended_ns = bench.now_ns + S // 20
    bench.tick(0.1, watts=70)
    use = use_of(pending)
    assert use.energy_j == pytest.approx(60.0)
    assert use.energy_method is EnergyMethod.COUNTER
    assert use.energy_uncertainty_j is not None
    assert bench.ledger.totals()["GPU-0"].requests_j == pytest.approx(60.0)
    assert bench.ledger.totals()["GPU-0"].idle_j == pytest.approx(10.0)


def test_what_no_request_used_is_named_and_not_given_to_anybody():
    bench = Bench()
    bench.tick(1, watts=70)
    bench.tick(3, watts=10)
    bench.tick(3, watts=10)
    totals = bench.ledger.totals()["GPU-0"]
    assert (totals.requests_j, totals.unattributed_j) == (0, pytest.approx(60))
    assert totals.idle_j == pytest.approx(40)  # The last window may still be needed by requests in it.


def test_two_requests_that_do_the_same_share_alike_and_add_up():
    bench = Bench()
    moments = range(bench.now_ns, bench.now_ns + S, S // 50)
    one, two = (Request(begun_ns=bench.now_ns, token_ns=moments, prefill_tokens=0) for _ in range(2))
    pending = [bench.ledger.begin(each) for each in (one, two)]
    one.ended_ns = two.ended_ns = bench.now_ns + S
    for _ in range(10):
        bench.tick(0.1, watts=50)
    energies = [use_of(each).energy_j for each in pending]
    assert energies[0] == pytest.approx(energies[1])
    assert sum(energies) == pytest.approx(40)


def test_an_outcome_never_changes_once_it_is_told():
    bench = Bench()
    early, late = Request(begun_ns=bench.now_ns), Request(begun_ns=bench.now_ns, token_ns=[bench.now_ns + S // 20])
    first, second = bench.ledger.begin(early), bench.ledger.begin(late)
    early.ended_ns = bench.now_ns + S // 10
    bench.tick(0.1, watts=50)
    told = use_of(first).energy_j
    bench.tick(1, watts=90)
    late.ended_ns = bench.now_ns
    bench.tick(0.1, watts=90)
    assert use_of(first).energy_j == told
    total = bench.ledger.totals()["GPU-0"].requests_j
    assert told + use_of(second).energy_j == pytest.approx(total)


def test_memory_is_of_the_samples_around_the_request():
    bench = Bench()
    bench.memory["GPU-0"] = 2_000_000
    bench.tick(0.1, watts=10)
    request = Request(begun_ns=bench.now_ns + 1)
    pending = bench.ledger.begin(request)
    for used in (5_000_000, 9_000_000, 4_000_000):
        bench.memory["GPU-0"] = used
        bench.tick(0.1, watts=50)
    request.ended_ns = bench.now_ns + 1
    bench.memory["GPU-0"] = 3_000_000
    bench.tick(0.1, watts=50)
    bench.memory["GPU-0"] = 99_000_000
    bench.tick(0.1, watts=50)
    use = use_of(pending)
    assert (use.memory_before_bytes, use.memory_peak_bytes, use.memory_delta_bytes) == (2_000_000, 9_000_000, 1_000_000)
    assert use.utilization == pytest.approx(0.5)
    assert use.temperature_max_c == 35
    assert use.throttle_reasons == ()


def test_the_peak_of_several_gpus_is_the_most_that_all_held_at_one_time():
    bench = Bench(devices=(GPU0, GPU1))
    request = Request(begun_ns=bench.now_ns + 1)
    pending = bench.ledger.begin(request)
    for first, second in ((9_000_000, 2_000_000), (3_000_000, 7_000_000)):
        bench.memory |= {"GPU-0": first, "GPU-1": second}
        bench.tick(0.1, watts=50)
    request.ended_ns = bench.now_ns + 1
    bench.memory |= {"GPU-0": 1_000_000, "GPU-1": 1_000_000}
    bench.tick(0.1, watts=50)
    use = use_of(pending)
    assert [each.memory_peak_bytes for each in use.devices] == [9_000_000, 7_000_000]
    assert use.memory_peak_bytes == 11_000_000


def test_what_was_there_before_a_request_is_the_peak_of_all_gpus_if_no_more_comes():
    bench = Bench(devices=(GPU0, GPU1))
    bench.memory |= {"GPU-0": 6_000_000, "GPU-1": 5_000_000}
    bench.tick(0.1, watts=10)
    request = Request(begun_ns=bench.now_ns + 1)
    pending = bench.ledger.begin(request)
    request.ended_ns = bench.now_ns + 2
    bench.memory |= {"GPU-0": 1_000_000, "GPU-1": 2_000_000}
    bench.tick(0.1, watts=50)
    assert use_of(pending).memory_peak_bytes == 11_000_000


def test_a_peak_of_which_a_part_is_not_known_is_not_told():
    bench = Bench(devices=(GPU0, GPU1))
    bench.lost.add("GPU-1")
    bench.tick(0.1, watts=10)
    request = Request(begun_ns=bench.now_ns + 1)
    pending = bench.ledger.begin(request)
    bench.tick(0.1, watts=50)
    request.ended_ns = bench.now_ns
    bench.tick(0.1, watts=50)
    assert use_of(pending).memory_peak_bytes is None


def test_a_request_between_two_samples_is_measured_by_them_and_says_so():
    bench = Bench()
    request = Request(begun_ns=bench.now_ns + S // 50, ended_ns=bench.now_ns + S // 25)
    pending = bench.ledger.begin(request)
    bench.tick(0.1, watts=50)
    use = use_of(pending)
    assert use.energy_j == pytest.approx(4.0)
    assert use.energy_method is EnergyMethod.INTERPOLATED
    assert use.memory_delta_bytes == 0


def test_only_the_gpus_that_a_model_may_use_are_its():
    bench = Bench(devices=(GPU0, GPU1))
    by_uuid, by_index, everywhere = (
        Request(begun_ns=bench.now_ns, ended_ns=bench.now_ns + S // 20, gpus=gpus)
        for gpus in (("GPU-1",), ("0",), None)
    )
    pending = [bench.ledger.begin(each) for each in (by_uuid, by_index, everywhere)]
    bench.tick(0.1, watts=50)
    ids = [[each.device.uuid for each in use_of(one).devices] for one in pending]
    assert ids == [["GPU-1"], ["GPU-0"], ["GPU-0", "GPU-1"]]


def test_a_model_that_no_gpu_of_this_machine_serves_is_not_measured():
    assert Bench().ledger.begin(Request(begun_ns=S, gpus=())) is None


def test_where_others_share_the_gpu_their_part_is_taken_off_first():
    others = (
        GPUProcess(pid=7, utilization=0.6, memory_bytes=700),
        GPUProcess(pid=8, utilization=0.2, memory_bytes=800),
    )
    bench = Bench(processes={"GPU-0": others})
    request = Request(begun_ns=bench.now_ns, ended_ns=bench.now_ns + S // 10, pid=7)
    pending = bench.ledger.begin(request)
    bench.tick(0.1, watts=90)
    use = use_of(pending)
    assert use.energy_j == pytest.approx(8.0 * 0.75)
    assert (use.energy_scope, use.process_memory_bytes) == ("process", 700)
    assert bench.ledger.totals()["GPU-0"].unattributed_j == pytest.approx(2.0)


@pytest.mark.parametrize(
    "running",
    [
        (GPUProcess(pid=8, utilization=0.2),),
        (GPUProcess(pid=7), GPUProcess(pid=8, utilization=0.2)),
        (GPUProcess(pid=7, utilization=0.0), GPUProcess(pid=8, utilization=0.0)),
        (),
    ],
)
def test_where_the_driver_does_not_tell_whose_work_it_is_the_figure_is_the_devices(running):
    bench = Bench(processes={"GPU-0": running})
    request = Request(begun_ns=bench.now_ns, ended_ns=bench.now_ns + S // 10, pid=7)
    pending = bench.ledger.begin(request)
    bench.tick(0.1, watts=90)
    use = use_of(pending)
    assert (use.energy_j, use.energy_scope) == (pytest.approx(8.0), "device")


def test_beside_a_request_of_an_unknown_process_nobodys_part_is_taken_off():
    processes = (GPUProcess(pid=7, utilization=0.6), GPUProcess(pid=8, utilization=0.2))
    bench = Bench(processes={"GPU-0": processes})
    known, unknown = (Request(begun_ns=bench.now_ns, ended_ns=bench.now_ns + S // 10, pid=pid) for pid in (7, None))
    pending = [bench.ledger.begin(each) for each in (known, unknown)]
    bench.tick(0.1, watts=90)
    assert [(use_of(each).energy_j, use_of(each).energy_scope) for each in pending] == [(4.0, "device")] * 2


def test_a_figure_is_of_the_process_only_if_all_of_it_is():
    bench = Bench()
    request = Request(begun_ns=bench.now_ns, pid=7)
    later = Request(begun_ns=bench.now_ns + S // 10, ended_ns=bench.now_ns + S // 5, pid=7)
    pending = bench.ledger.begin(request)
    bench.tick(0.1, watts=90)
    request.ended_ns = bench.now_ns + S // 10
    bench.tick(0.01, watts=90)  # Before anybody has looked at the processes, its first window is divided.
    bench.processes["GPU-0"] = (GPUProcess(pid=7, utilization=0.6), GPUProcess(pid=8, utilization=0.2))
    after = bench.ledger.begin(later)
    bench.tick(0.1, watts=90)
    assert (use_of(pending).energy_scope, use_of(after).energy_scope) == ("device", "process")


def test_a_prompt_that_is_still_being_read_is_never_weighed_twice():
    bench = Bench(idle_w=0)
    reading = Request(begun_ns=bench.now_ns, prefill_tokens=1000)
    steady = [Request(begun_ns=bench.now_ns + step * S, ended_ns=bench.now_ns + (step + 1) * S) for step in range(3)]
    pending = bench.ledger.begin(reading)
    for each in steady:
        bench.ledger.begin(each)
        bench.tick(1, watts=50)
    reading.token_ns, reading.ended_ns = [bench.now_ns], bench.now_ns
    bench.tick(0.1, watts=0)
    total = bench.ledger.totals()["GPU-0"].requests_j
    # 1,000 tokens against three times 100 in all, however the windows were cut.
    assert 0 < use_of(pending).energy_j < total
    assert total == pytest.approx(150)


def test_tokens_slower_than_a_window_are_shared_by_the_windows_they_took():
    bench = Bench(idle_w=0)
    begun = bench.now_ns
    # One decodes a token a second, half a second apart from the other: work in every window, and as much.
    one = Request(begun_ns=begun, prefill_tokens=0, token_ns=[begun + step * S for step in range(1, 9)])
    other = Request(begun_ns=begun, prefill_tokens=0, token_ns=[begun + step * S + S // 2 for step in range(1, 9)])
    pending = [bench.ledger.begin(each) for each in (one, other)]
    one.ended_ns = other.ended_ns = begun + 9 * S
    for _ in range(45):
        bench.tick(0.2, watts=50)
    energies = [use_of(each).energy_j for each in pending]
    assert energies[0] == pytest.approx(energies[1], rel=0.15)


def test_a_section_sees_all_that_was_drawn_and_takes_nothing_from_requests():
    bench = Bench()
    told: list[GPUUse | None] = []
    section = Request(begun_ns=bench.now_ns)
    bench.ledger.open(Account(section.work, section=True, on_done=told.append))
    request = Request(begun_ns=bench.now_ns, ended_ns=bench.now_ns + S // 2)
    pending = bench.ledger.begin(request)
    for _ in range(10):
        bench.tick(0.1, watts=60)
    assert told == []
    section.ended_ns = bench.now_ns
    bench.tick(0.1, watts=60)
    assert len(told) == 1
    use = told[0]
    assert use.energy_j == pytest.approx(50)
    assert use.idle_j == pytest.approx(10)
    assert use_of(pending).energy_j == pytest.approx(25)
    assert use_of(pending).idle_j is None


def test_a_device_that_is_lost_ends_nothing_and_invents_nothing():
    bench = Bench()
    request = Request(begun_ns=bench.now_ns)
    pending = bench.ledger.begin(request)
    bench.tick(0.1, watts=60)
    bench.lost.add("GPU-0")
    bench.tick(1, watts=60)
    bench.tick(5, watts=60)
    request.ended_ns = bench.now_ns
    bench.tick(0.1, watts=60)
    assert use_of(pending).energy_j == pytest.approx(5)
    bench.lost.clear()
    bench.tick(0.1, watts=60)
    bench.tick(0.1, watts=60)
    totals = bench.ledger.totals()["GPU-0"]
    assert totals.unattributed_j <= 5.0 + 1e-9


def test_a_device_without_energy_and_power_has_its_other_figures_at_once():
    bench = Bench()
    request = Request(begun_ns=bench.now_ns, ended_ns=bench.now_ns + 5)
    pending = bench.ledger.begin(request)
    bench.now_ns += S // 10
    sample = Sample(uuid="GPU-0", monotonic_ns=bench.now_ns, fast=FastReading(memory_used_bytes=7))
    bench.ledger.on_tick(Tick(monotonic_ns=bench.now_ns, samples=(sample,)))
    bench.ledger.on_tick(Tick(monotonic_ns=bench.now_ns + 5 * S, samples=(sample,)))
    assert use_of(pending).memory_peak_bytes == 1_000_000


def test_asking_waits_for_the_next_sample_and_gets_what_it_said():
    bench = Bench(patience_s=5)
    request = Request(begun_ns=bench.now_ns, ended_ns=bench.now_ns + S // 20)
    pending = bench.ledger.begin(request)
    threading.Timer(0.05, bench.tick, [0.1], {"watts": 50}).start()
    assert pending.wait().energy_j == pytest.approx(4)


def test_when_sampling_hangs_only_the_first_to_ask_waits():
    bench = Bench(patience_s=0.2)
    request = Request(begun_ns=bench.now_ns, ended_ns=bench.now_ns)
    waits = []
    bench.ledger._changed.wait_for = lambda _condition, timeout: waits.append(timeout)
    pending = [bench.ledger.begin(request) for _ in range(3)]
    assert [each.wait() for each in pending] == [None, None, None]
    assert waits == [0.2]


def test_stopping_closes_every_account_and_wakes_whoever_waits():
    bench = Bench(patience_s=30)
    told: list[GPUUse | None] = []
    begun = bench.now_ns
    bench.ledger.open(Account(Request(begun_ns=begun).work, section=True, on_done=told.append))
    pending = bench.ledger.begin(Request(begun_ns=begun))
    bench.tick(0.1, watts=50)
    waiting = threading.Thread(target=pending.wait)
    waiting.start()
    bench.ledger.stop()
    waiting.join(10)
    assert not waiting.is_alive()
    assert len(told) == 1
    assert bench.ledger.begin(Request(begun_ns=begun)) is None


def test_settling_waits_for_what_has_ended_and_not_for_what_goes_on():
    bench = Bench()
    bench.ledger.begin(Request(begun_ns=bench.now_ns))
    assert bench.ledger.settle(0)
    bench.ledger.begin(Request(begun_ns=bench.now_ns, ended_ns=bench.now_ns + 1))
    assert not bench.ledger.settle(0)
    bench.tick(0.1, watts=50)
    assert bench.ledger.settle(0)


def test_one_section_that_fails_to_tell_leaves_the_others_alone(caplog):
    bench = Bench()

    def fail(_use: object) -> None:
        raise RuntimeError("no")

    told: list[GPUUse | None] = []
    for on_done in (fail, told.append):
        ended = Request(begun_ns=bench.now_ns, ended_ns=bench.now_ns + 1)
        bench.ledger.open(Account(ended.work, section=True, on_done=on_done))
    bench.tick(0.1, watts=50)
    assert len(told) == 1
    assert "could not be told" in caplog.text


def test_requests_beyond_what_can_wait_between_two_samples_are_let_go_unmeasured(monkeypatch):
    monkeypatch.setattr("llamatelemetry.gpu.ledger._MAX_ARRIVALS", 2)
    bench = Bench()
    begun = [bench.ledger.begin(Request(begun_ns=bench.now_ns)) for _ in range(3)]
    assert [each is None for each in begun] == [False, False, True]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[tuple[float, float, int, int]]]:
    ticks = draw(st.lists(st.tuples(st.floats(0.01, 0.7), st.floats(0, 300)), min_size=2, max_size=30))
    total = sum(length for length, _ in ticks)
    moment = st.floats(0, total)
    requests = draw(
        st.lists(st.tuples(moment, moment, st.integers(0, 2000), st.integers(0, 200)), min_size=0, max_size=8)
    )
    return ticks, [(min(a, b), max(a, b), prompt, tokens) for a, b, prompt, tokens in requests]


@given(histories())
def test_whatever_overlaps_all_shares_add_up_to_what_the_counter_moved(history):
    ticks, requests = history
    bench = Bench(idle_w=None)
    zero_ns, zero_mj = bench.now_ns, bench.counters_mj["GPU-0"]
    planned = []
    for begin_s, end_s, prompt, tokens in requests:
        begin, end = zero_ns + round(begin_s * S), zero_ns + round(end_s * S)
        times = sorted(begin + (end - begin) * (index + 1) // (tokens + 1) for index in range(tokens))
        planned.append((Request(begun_ns=begin, prefill_tokens=prompt), times, end))
    waiting, running, pending = sorted(planned, key=lambda each: each[0].begun_ns), [], []
    for length, watts in ticks:
        until = bench.now_ns + round(length * S)
        while waiting and waiting[0][0].begun_ns <= until:
            request, times, end = waiting.pop(0)
            running.append((request, times, end))
            pending.append(bench.ledger.begin(request))
        for request, times, end in running:
            request.token_ns = [moment for moment in times if moment <= until]
            request.ended_ns = end if end <= until else None
        bench.tick(length, watts=watts)
    for request, times, end in running:
        request.token_ns, request.ended_ns = times, min(end, bench.now_ns)
    bench.tick(0.1, watts=40)
    shares = [each.wait(0).energy_j or 0.0 for each in pending]
    assert all(share >= 0 for share in shares)
    totals = bench.ledger.totals()["GPU-0"]
    moved = (bench.counters_mj["GPU-0"] - zero_mj) / 1000
    undivided = sum(window.energy_j for window in bench.ledger._meters["GPU-0"].waiting)
    assert totals.requests_j == pytest.approx(sum(shares), rel=1e-9, abs=1e-9)
    parts = totals.requests_j + totals.idle_j + totals.unattributed_j + undivided
    assert parts <= moved + 1e-9 * max(1.0, moved)
    if all(watts * length * 1000 > 1 for length, watts in ticks):
        assert parts == pytest.approx(moved, rel=1e-9, abs=1e-9)
