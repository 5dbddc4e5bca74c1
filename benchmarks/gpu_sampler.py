"""What sampling GPUs costs: CPU of the sampler's thread in a second, and memory over an hour.

Run: python benchmarks/gpu_sampler.py [--json]

CPU is the sampler's as an application runs it: its thread, ten rounds a second in real time, with one
listener, once it has had a first look at the processes of each device. Beside it stands a loop that
makes the bare calls of NVIDIA's binding at the same rates and throws the answers away. NVML is the
stub: it answers from memory, so this is the cost of our code and of the binding, and of no driver; a
real one adds its own time to each call, the same to both.

Memory is that of 36,000 rounds on a clock moved by hand, beside a list that keeps ten minutes of the
same samples as objects.
"""

from __future__ import annotations

import gc
import tempfile
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
from report import Row, report

from llamatelemetry.clock import ManualClock
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.gpu.sampler import GPUSampler
from llamatelemetry.gpu.snapshot import Sample, Tick
from llamatelemetry.testing.nvml_stub import H100, NvmlStub, StubDevice

DEVICES = (1, 8, 16)
INTERVAL_S = 0.1
SECONDS = 3.0
REPEATS = 3
BUDGET_MS_PER_S = 10.0

HOUR_DEVICES = 8
MINUTE_ROUNDS = 600
WARM_MINUTES, ALL_MINUTES = 11, 60
GROWTH_BUDGET_KB = 1.0


def machine(count: int) -> tuple[StubDevice, ...]:
    """So many H100s, as the stub plays them: of all devices the one with most figures to read."""
    return tuple(
        replace(H100[0], uuid=f"GPU-{index:04d}", pci_bus_id=f"00000000:{index + 1:02X}:00.0", serial=str(index))
        for index in range(count)
    )


def cpu_ms_per_s(seconds: float) -> float:
    """CPU that this process takes in a second while this thread sleeps."""
    start, began = time.process_time(), time.perf_counter()
    time.sleep(seconds)
    return (time.process_time() - start) / (time.perf_counter() - began) * 1e3


def sampling_ms_per_s() -> float:
    """CPU of the sampler in a second."""
    told: list[Tick] = []
    sampler = GPUSampler(Nvml({}), interval_s=INTERVAL_S)
    with sampler.subscribe(told.append):
        assert sampler.wait_past(time.perf_counter_ns(), 10)
        time.sleep((len(sampler.devices) + 1) * INTERVAL_S)
        assert all(snapshot.rare.processes is not None for snapshot in sampler.snapshots())
        told.clear()
        spent = cpu_ms_per_s(SECONDS)
        # A sampler that did not keep up would be cheap.
        assert len(told) >= SECONDS / INTERVAL_S * 0.9, f"{len(told)} rounds: the machine is too busy to measure on"
    return spent


def bare_ms_per_s() -> float:
    """CPU in a second of a loop with the binding's bare calls at the same rates."""
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    rare_rounds = max(10, 50 // len(handles))  # Of one device a second at most, and five seconds between two of one.
    stopped = threading.Event()

    def poll() -> None:
        rounds = 0
        while not stopped.wait(INTERVAL_S):
            for index, handle in enumerate(handles):
                bare_fast(handle)
                if (rounds + index) % 10 == 0:
                    bare_slow(handle)
            if rounds % rare_rounds == 0:
                bare_rare(handles[rounds // rare_rounds % len(handles)])
            rounds += 1

    thread = threading.Thread(target=poll)
    thread.start()
    time.sleep(2 * INTERVAL_S)
    spent = cpu_ms_per_s(SECONDS)
    stopped.set()
    thread.join()
    pynvml.nvmlShutdown()
    return spent


def bare_fast(handle: Any) -> None:
    """The calls of a fast reading."""
    pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    pynvml.nvmlDeviceGetUtilizationRates(handle)
    pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
    pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)


def bare_slow(handle: Any) -> None:
    """The calls of a slow one, but for Xid events, which a bare loop does not poll."""
    pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
    pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
    pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)
    pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    pynvml.nvmlDeviceGetTotalEccErrors(handle, 0, 0)
    pynvml.nvmlDeviceGetTotalEccErrors(handle, 1, 0)


def bare_rare(handle: Any) -> None:
    """The calls of a rare one, but for those per NVLink: this device has none."""
    pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    pynvml.nvmlDeviceGetPcieThroughput(handle, pynvml.NVML_PCIE_UTIL_TX_BYTES)
    pynvml.nvmlDeviceGetPcieThroughput(handle, pynvml.NVML_PCIE_UTIL_RX_BYTES)


def kilobytes_over_an_hour(on_tick: Callable[[Tick], None] | None) -> tuple[float, float]:
    """Memory taken by a sampler and its listener after some minutes, and after the hour."""
    after: list[float] = []
    with tempfile.TemporaryDirectory() as folder, NvmlStub(machine(HOUR_DEVICES), Path(folder)) as stub:
        stub.set_time(0)
        clock = ManualClock(start_ns=0)
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        sampler = GPUSampler(Nvml({}), interval_s=INTERVAL_S, clock=clock.clock, background=False)
        sampler.subscribe(on_tick)
        for number in range(ALL_MINUTES * MINUTE_ROUNDS):
            if number == WARM_MINUTES * MINUTE_ROUNDS:
                gc.collect()
                after.append((tracemalloc.get_traced_memory()[0] - before) / 1e3)
            for device in stub.devices:
                device.memory_used(2**30 + number)
            sampler.tick()
            clock.advance(INTERVAL_S)
            stub.set_time(clock.now_ns() / 1e9)
        gc.collect()
        after.append((tracemalloc.get_traced_memory()[0] - before) / 1e3)
        tracemalloc.stop()
        (first, *_) = sampler.devices
        assert len(sampler.history(first.uuid)) == 10 * MINUTE_ROUNDS + 1
        sampler.close()
    warm, hour = after
    return warm, hour


def main() -> None:
    """Measures and prints."""
    rows = []
    for count in DEVICES:
        with tempfile.TemporaryDirectory() as folder, NvmlStub(machine(count), Path(folder)):
            # In turns, so that what else the machine does falls on both; the least of each is told.
            pairs = [(sampling_ms_per_s(), bare_ms_per_s()) for _ in range(REPEATS)]
        value, bare = (min(figures) for figures in zip(*pairs, strict=True))
        rows.append(
            Row(
                name=f"sampling {count} stub device{'s' * (count > 1)} at 10 Hz",
                value=value,
                unit="ms/s",
                baseline=bare,
                budget=f"<= {BUDGET_MS_PER_S:g}, uses {value / BUDGET_MS_PER_S:.0%}",
            )
        )
        assert value <= BUDGET_MS_PER_S, rows[-1]
    warm, hour = kilobytes_over_an_hour(None)
    kept: deque[Sample] = deque(maxlen=HOUR_DEVICES * (10 * MINUTE_ROUNDS + 1))
    _, as_objects = kilobytes_over_an_hour(lambda tick: kept.extend(tick.samples))
    rows += [
        Row(
            name=f"memory after an hour, {HOUR_DEVICES} stub devices", value=hour, unit="kB", baseline=as_objects - hour
        ),
        Row(
            name=f"growth from minute {WARM_MINUTES} to {ALL_MINUTES}",
            value=hour - warm,
            unit="kB",
            budget=f"<= {GROWTH_BUDGET_KB:g}",
        ),
    ]
    report("GPU sampler, NVML is a stub", rows)
    assert hour - warm <= GROWTH_BUDGET_KB, rows[-1]


if __name__ == "__main__":
    main()
