"""CPU of reading one GPU through NVML's binding, against the binding's bare calls.

Run: python benchmarks/nvml_reader.py [--json]

NVML is the stub: it answers from memory, so what is measured is the reader and the binding and no
driver. A real driver adds its own time to each call, the same with and without the reader.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
from report import Row, report

from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.testing.nvml_stub import A100_MIG, H100, LAPTOP, TESLA_T4_X2, NvmlStub, StubDevice

CALLS = 5_000
REPEATS = 5
SCENARIOS: tuple[tuple[str, tuple[StubDevice, ...]], ...] = (
    ("T4", TESLA_T4_X2),
    ("H100", H100),
    ("A100 with MIG", A100_MIG),
    ("laptop", LAPTOP),
)


def microseconds(call: Callable[[], object]) -> float:
    """CPU of one call, the least of some rounds."""
    rounds = []
    for _ in range(REPEATS):
        start = time.process_time()
        for _ in range(CALLS):
            call()
        rounds.append((time.process_time() - start) / CALLS * 1e6)
    return min(rounds)


def bare_fast(handle: Any, *, instant: bool) -> Callable[[], object]:
    """The calls that a fast reading cannot do without, their answers thrown away."""

    def call() -> None:
        pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
        pynvml.nvmlDeviceGetUtilizationRates(handle)
        if instant:
            pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
        else:
            pynvml.nvmlDeviceGetPowerUsage(handle)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)

    return call


def bare_slow(handle: Any) -> Callable[[], object]:
    """The same for a slow one, without Xid events, which a bare program does not poll."""

    def call() -> None:
        pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
        pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)
        pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        pynvml.nvmlDeviceGetTotalEccErrors(handle, 0, 0)
        pynvml.nvmlDeviceGetTotalEccErrors(handle, 1, 0)

    return call


def measure(name: str, devices: tuple[StubDevice, ...]) -> list[Row]:
    """One device of one kind of machine."""
    complete = name in {"T4", "H100"}
    with tempfile.TemporaryDirectory() as folder, NvmlStub(devices, Path(folder)):
        nvml = Nvml({})
        opening = microseconds_of_opening(nvml)
        (device, *_) = nvml.devices
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        rows = [
            Row(
                name=f"{name}, fast",
                value=microseconds(lambda: nvml.fast(device)),
                unit="us",
                baseline=microseconds(bare_fast(handle, instant=name == "H100")) if complete else None,
            ),
            Row(
                name=f"{name}, slow",
                value=microseconds(lambda: nvml.slow(device)),
                unit="us",
                baseline=microseconds(bare_slow(handle)) if complete else None,
            ),
            Row(name=f"{name}, rare", value=microseconds(lambda: nvml.rare(device)), unit="us"),
            Row(name=f"{name}, open", value=opening, unit="us"),
        ]
        nvml.close()
    return rows


def microseconds_of_opening(nvml: Nvml) -> float:
    """CPU of finding the devices, the binding being imported already."""
    nvml.open()
    start = time.process_time()
    for _ in range(100):
        nvml.open()
    return (time.process_time() - start) / 100 * 1e6


def main() -> None:
    """Measures and prints."""
    rows = [row for name, devices in SCENARIOS for row in measure(name, devices)]
    report("NVML reader over the stub, CPU of one reading of one device", rows)


if __name__ == "__main__":
    main()
