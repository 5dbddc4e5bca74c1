"""The sampler on NVIDIA's own binding, over a driver library that is a stub: nothing here is a real reading."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from llamatelemetry.clock import ManualClock
from llamatelemetry.gpu.device import FastReading
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.gpu.sampler import GPUSampler
from llamatelemetry.gpu.snapshot import GPUSnapshot, Sample, Tick
from llamatelemetry.testing.nvml_stub import A100_MIG, H100_X8, LAPTOP, TESLA_T4_X2, NvmlStub, StubDevice

NO_PERMISSION, TIMEOUT = 4, 10


class Bench:
    """A stub and a sampler on one clock, which a test moves."""

    def __init__(self, devices: Sequence[StubDevice], folder: Path) -> None:
        self.stub = NvmlStub(devices, folder)
        self.stub.set_time(0)
        self.time = ManualClock(start_ns=0)
        self.sampler = GPUSampler(Nvml({}), clock=self.time.clock, background=False)

    def __enter__(self) -> Self:
        self.stub.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.sampler.close()
        self.stub.__exit__(None, None, None)

    def run(self, seconds: float) -> list[Tick]:
        ticks = []
        for _ in range(round(seconds * 10)):
            tick = self.sampler.tick()
            assert tick is not None
            ticks.append(tick)
            self.time.advance(0.1)
            self.stub.set_time(self.time.now_ns() / 1e9)
        return ticks

    def snapshot(self, index: int = 0) -> GPUSnapshot:
        return self.sampler.snapshots()[index]

    def samples(self, index: int = 0) -> Sequence[Sample]:
        return self.sampler.history(self.stub.devices[index].uuid).between(0, self.time.now_ns())


def test_two_stub_t4s_are_sampled_as_their_script_says(tmp_path) -> None:
    with Bench(TESLA_T4_X2, tmp_path) as bench:
        first, second = bench.stub.devices
        first.power_w(70, at_s=1)
        first.memory_used(5 * 2**30)
        first.utilization(87, 40)
        first.throttle(0x4)
        second.temperature(55)
        bench.run(4)
        busy, idle = bench.sampler.snapshots()
        assert (busy.device.name, busy.device.uuid) == ("Tesla T4", first.uuid)
        assert (busy.fast.utilization, busy.fast.memory_controller_utilization) == (0.87, 0.4)
        assert (busy.fast.memory_used_bytes, busy.fast.power_w) == (5 * 2**30, 70)
        assert busy.slow.throttle_reasons == ("sw_power_cap",)
        assert idle.slow.temperature_c == 55
        assert {sample.fast.power_w for sample in bench.samples(1)} == {10}
        # The counter shows what was drawn up to its last step, a tenth of a second ago at most.
        assert busy.energy_j == pytest.approx(first.energy_j(0, 3.9), abs=70 * 0.1)
        assert idle.energy_j == pytest.approx(second.energy_j(0, 3.9), abs=10 * 0.1)


def test_stub_mig_instances_are_sampled_with_what_they_tell_and_nothing_made_up(tmp_path) -> None:
    with Bench(A100_MIG, tmp_path) as bench:
        bench.stub.devices[0].mig_memory_used(1, 2**30)
        bench.run(1)
        whole, *instances = bench.sampler.snapshots()
        assert len(instances) == 3
        assert whole.energy_j is not None
        assert instances[1].fast.memory_used_bytes == 2**30
        for snapshot in instances:
            assert snapshot.device.parent_uuid == whole.device.uuid
            assert (snapshot.fast.utilization, snapshot.energy_j) == (None, None)


def test_without_a_counter_a_stub_laptops_power_is_added_up(tmp_path) -> None:
    with Bench(LAPTOP, tmp_path) as bench:
        bench.stub.devices[0].power_w(60, at_s=1)
        bench.stub.devices[0].power_w(8, at_s=3)
        bench.run(5)
        assert bench.snapshot().fast.energy_mj is None
        assert bench.snapshot().energy_j == pytest.approx(bench.stub.devices[0].energy_j(0, 4.9), rel=0.05)


def test_a_stub_gpu_lost_in_mid_run_comes_back_and_its_energy_goes_on(tmp_path) -> None:
    with Bench(TESLA_T4_X2, tmp_path) as bench:
        device = bench.stub.devices[0]
        bench.run(2)
        device.lose()
        ticks = bench.run(3)
        assert [[sample.lost for sample in tick.samples] for tick in ticks] == [[True, False]] * 30
        assert ticks[-1].samples[0].fast == FastReading()
        device.restore()
        bench.run(5)
        assert not bench.snapshot().lost
        assert bench.snapshot().energy_j == pytest.approx(device.energy_j(0, 9.9), abs=2)
        gap = [sample for sample in bench.samples() if 2e9 < sample.monotonic_ns < 6.9e9]
        assert gap == []
        assert len(bench.samples(1)) == 100


def test_a_stub_driver_that_was_loaded_anew_counts_from_zero_and_the_sum_goes_on(tmp_path) -> None:
    with Bench(TESLA_T4_X2, tmp_path) as bench:
        device = bench.stub.devices[0]
        bench.run(10)
        before_j = bench.snapshot().energy_j
        assert before_j == pytest.approx(99, abs=2)
        device.lose()
        bench.run(1)
        device.restore()
        device.restart_counter()
        bench.run(10)
        assert bench.snapshot().fast.energy_mj < 100_000
        assert before_j + 45 <= bench.snapshot().energy_j <= before_j + 101


def test_figures_that_a_stub_driver_refuses_are_none_and_the_rest_goes_on(tmp_path) -> None:
    with Bench(TESLA_T4_X2, tmp_path) as bench:
        bench.stub.devices[0].fail("nvmlDeviceGetPowerUsage", NO_PERMISSION)
        bench.stub.devices[0].fail("nvmlDeviceGetTotalEnergyConsumption", TIMEOUT)
        bench.run(1)
        bench.stub.devices[0].fail("nvmlDeviceGetTotalEnergyConsumption", 0)
        bench.run(1)
        fast = bench.snapshot().fast
        assert fast.power_w is None
        assert fast.energy_mj is not None
        assert bench.snapshot(1).fast.power_w == 10
        assert bench.stub.calls("nvmlDeviceGetPowerUsage") < 40


def test_no_round_over_eight_stub_gpus_asks_for_more_than_ones_pcie_traffic(tmp_path) -> None:
    with Bench(H100_X8, tmp_path) as bench:
        for _ in range(60):
            before = bench.stub.calls("nvmlDeviceGetPcieThroughput")
            bench.run(0.1)
            assert bench.stub.calls("nvmlDeviceGetPcieThroughput") - before <= 2
        # Each once, and from then on one a second.
        assert bench.stub.calls("nvmlDeviceGetPcieThroughput") == 2 * (8 + 5)


def test_a_stub_driver_is_left_alone_before_and_after_somebody_listens(tmp_path) -> None:
    with NvmlStub(TESLA_T4_X2, tmp_path) as stub:
        sampler = GPUSampler(Nvml({}), interval_s=0.01)
        told: list[Tick] = []
        assert stub.calls() == 0
        with sampler.subscribe(told.append):
            assert sampler.wait_past(0, 30)
            assert sampler.wait_past(told[-1].monotonic_ns + 50_000_000, 30)
        assert len(told) >= 2
        times = [tick.monotonic_ns for tick in told]
        assert times == sorted(set(times))
        assert (stub.calls("nvmlInit"), stub.calls("nvmlShutdown")) == (1, 1)
        after = stub.calls()
        sampler.snapshots()
        sampler.history(stub.devices[0].uuid).between(0, 2**62)
        assert not sampler.wait_past(2**62, 30)
        assert stub.calls() == after
        assert not [thread for thread in threading.enumerate() if thread.name == "llamatelemetry-gpu"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_opens_the_stub_driver_for_itself_and_its_parent_goes_on(tmp_path) -> None:
    with NvmlStub(TESLA_T4_X2, tmp_path) as stub:
        told: list[Tick] = []
        sampler = GPUSampler(Nvml({}), interval_s=0.01)
        with sampler.subscribe(told.append):
            assert sampler.wait_past(0, 30)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    assert len(sampler.snapshots()) == 2
                    assert sampler.wait_past(told[-1].monotonic_ns + 50_000_000, 30)
                    sampler.close()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            assert stub.calls("nvmlInit") == 2
            assert sampler.wait_past(told[-1].monotonic_ns + 1, 30)
