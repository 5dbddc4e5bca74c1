"""The reader against the stub driver, through the real binding. No figure here is a real GPU's."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pynvml
import pytest

from llamatelemetry.gpu.device import (
    DriverState,
    FastReading,
    GPUDevice,
    GPUProcess,
    RareReading,
    SlowReading,
)
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.gpu.nvml_questions import PATIENCE
from llamatelemetry.gpu.reader import GPUReader
from llamatelemetry.testing.nvml_stub import A100_MIG, H100, LAPTOP, TESLA_T4_X2, NvmlStub, StubProcess

MIB = 2**20
FINAL = {
    "not supported": pynvml.NVML_ERROR_NOT_SUPPORTED,
    "not permitted": pynvml.NVML_ERROR_NO_PERMISSION,
    "has no": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    "Invalid Argument": pynvml.NVML_ERROR_INVALID_ARGUMENT,
    "infoROM": pynvml.NVML_ERROR_CORRUPTED_INFOROM,
    "blocked": pynvml.NVML_ERROR_OPERATING_SYSTEM,
}
PASSING = [
    pynvml.NVML_ERROR_TIMEOUT,
    pynvml.NVML_ERROR_IN_USE,
    pynvml.NVML_ERROR_IRQ_ISSUE,
    27,  # Not ready: likewise.
    pynvml.NVML_ERROR_NO_DATA,
    pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES,
    pynvml.NVML_ERROR_MEMORY,
    29,  # Invalid state: older bindings have no name for it.
]
GONE = [
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
]
FIGURES = {
    "nvmlDeviceGetMemoryInfo_v2": ("fast", {"memory_used_bytes"}),
    "nvmlDeviceGetUtilizationRates": ("fast", {"utilization", "memory_controller_utilization"}),
    "nvmlDeviceGetPowerUsage": ("fast", {"power_w"}),
    "nvmlDeviceGetTotalEnergyConsumption": ("fast", {"energy_mj"}),
    "nvmlDeviceGetTemperature": ("slow", {"temperature_c"}),
    "nvmlDeviceGetClockInfo": ("slow", {"sm_clock_mhz", "memory_clock_mhz"}),
    "nvmlDeviceGetCurrentClocksEventReasons": ("slow", {"throttle_reasons"}),
    "nvmlDeviceGetTotalEccErrors": ("slow", {"ecc_corrected", "ecc_uncorrected"}),
    "nvmlDeviceRegisterEvents": ("slow", {"xid_errors"}),
    "nvmlDeviceGetComputeRunningProcesses_v3": ("rare", {"processes"}),
    "nvmlDeviceGetProcessUtilization": ("rare", {"processes.utilization"}),
    "nvmlDeviceGetPcieThroughput": ("rare", {"pcie_transmitted_bytes_per_s", "pcie_received_bytes_per_s"}),
}
"""Functions of the T4 scenario, when they are asked, and the figures that hang on them."""
OLDER_WAYS = {
    "nvmlDeviceGetMemoryInfo_v2": "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetTemperature": "nvmlDeviceGetTemperatureV",
    "nvmlDeviceGetCurrentClocksEventReasons": "nvmlDeviceGetCurrentClocksThrottleReasons",
}


class OtherLibrary:
    """The library of the stub with one function of another driver's, or without it."""

    def __init__(self, function: str, other: Callable[..., int] | None = None) -> None:
        self._stub = pynvml.nvmlLib
        self._function = function
        self._other = other

    def __getattr__(self, name: str) -> Any:
        if name != self._function:
            return getattr(self._stub, name)
        if self._other is None:
            raise AttributeError(name)
        return self._other


@contextmanager
def loaded(monkeypatch: pytest.MonkeyPatch, function: str, other: Callable[..., int] | None = None) -> Iterator[None]:
    pynvml.nvmlInit()
    monkeypatch.setattr(pynvml, "nvmlLib", OtherLibrary(function, other))
    try:
        yield
    finally:
        monkeypatch.undo()
        pynvml.nvmlShutdown()


@contextmanager
def opened(environ: dict[str, str] | None = None) -> Iterator[Nvml]:
    nvml = Nvml({} if environ is None else environ)
    nvml.open()
    yield nvml
    nvml.close()


def readings(nvml: Nvml, device: GPUDevice) -> dict[str, Any]:
    """Everything that is read of a device, by field; a process's utilization as ``processes.utilization``."""
    found: dict[str, Any] = {}
    for reading in (nvml.fast(device) or FastReading(), nvml.slow(device), nvml.rare(device)):
        found |= {name: getattr(reading, name) for name in reading.__slots__}
    shares = [process.utilization for process in found["processes"] or ()]
    return found | {"processes.utilization": shares[0] if shares else None}


def absent(nvml: Nvml, device: GPUDevice) -> set[str]:
    return {name for name, value in readings(nvml, device).items() if value is None}


def test_the_reader_of_the_stub_is_what_the_sampler_takes(t4x2: NvmlStub) -> None:
    with opened() as nvml:
        reader: GPUReader = nvml
        assert reader.devices == nvml.devices


def test_two_t4_of_the_stub_are_described(t4x2: NvmlStub) -> None:
    t4x2.devices[0].figure("memory_reserved", 400 * MIB)
    with opened() as nvml:
        assert nvml.status.state is DriverState.READY
        assert nvml.status.message == "2 GPUs can be read"
        assert (nvml.status.driver_version, nvml.status.cuda_version) == ("550.54.15", "12.4")
        assert (nvml.status.fix, nvml.status.hidden) == ("", 0)
        assert [device.index for device in nvml.devices] == [0, 1]
        assert nvml.devices[0] == GPUDevice(
            index=0,
            uuid=TESLA_T4_X2[0].uuid,
            name="Tesla T4",
            compute_capability=(7, 5),
            memory_total_bytes=15360 * MIB,
            memory_reserved_bytes=400 * MIB,
            pci_bus_id="00000000:00:04.0",
            power_limit_w=70.0,
        )


def test_versions_are_the_stub_drivers(tmp_path: Path) -> None:
    with NvmlStub(H100, tmp_path, driver_version="580.95.05", cuda_version=(13, 0)), opened() as nvml:
        assert (nvml.status.driver_version, nvml.status.cuda_version) == ("580.95.05", "13.0")


def test_the_stubs_fast_figures_are_read_in_our_units(t4x2: NvmlStub) -> None:
    t4x2.set_time(0)
    scripted = t4x2.devices[0]
    scripted.figure("memory_reserved", 400 * MIB)
    scripted.memory_used(2000 * MIB)
    scripted.utilization(87, 31)
    scripted.power_w(65.25)
    t4x2.set_time(10)
    with opened() as nvml:
        assert nvml.fast(nvml.devices[0]) == FastReading(
            memory_used_bytes=1600 * MIB,
            utilization=0.87,
            memory_controller_utilization=0.31,
            power_w=65.25,
            energy_mj=652_500,
        )
        assert nvml.fast(nvml.devices[1]).power_w == 10.0


def test_the_stubs_slow_figures_are_read_in_our_units(t4x2: NvmlStub) -> None:
    scripted = t4x2.devices[1]
    scripted.temperature(71)
    scripted.clocks(1590, 5001)
    scripted.throttle(0x1 | 0x4 | 0x20)
    scripted.ecc_errors(3, 1)
    with opened() as nvml:
        assert nvml.slow(nvml.devices[1]) == SlowReading(
            temperature_c=71.0,
            sm_clock_mhz=1590,
            memory_clock_mhz=5001,
            throttle_reasons=("sw_power_cap", "sw_thermal_slowdown"),
            ecc_corrected=3,
            ecc_uncorrected=1,
            xid_errors=0,
        )
        assert nvml.slow(nvml.devices[0]).throttle_reasons == ()


def test_the_stubs_processes_have_memory_and_what_they_used_lately(t4x2: NvmlStub) -> None:
    t4x2.set_time(1)
    t4x2.devices[0].processes(
        [
            StubProcess(pid=40, memory_bytes=300 * MIB, utilization=60),
            StubProcess(pid=7, memory_bytes=None, utilization=25),
            StubProcess(pid=9, memory_bytes=10 * MIB),
        ]
    )
    with opened() as nvml:
        device = nvml.devices[0]
        assert nvml.rare(device).processes == (
            GPUProcess(pid=7, memory_bytes=None, utilization=0.25),
            GPUProcess(pid=9, memory_bytes=10 * MIB, utilization=0.0),
            GPUProcess(pid=40, memory_bytes=300 * MIB, utilization=0.6),
        )
        # No new sample of the driver: nobody did anything since.
        assert [process.utilization for process in nvml.rare(device).processes or ()] == [0.0, 0.0, 0.0]
        t4x2.advance(1)
        assert [process.utilization for process in nvml.rare(device).processes or ()] == [0.25, 0.0, 0.6]
        assert nvml.absences(device).keys() == {"nvlink_transmitted_bytes", "nvlink_received_bytes"}
        t4x2.devices[0].processes([])
        assert nvml.rare(device).processes == ()


def test_the_stubs_traffic_is_read_in_bytes(h100x8: NvmlStub) -> None:
    scripted = h100x8.devices[2]
    scripted.pcie_throughput(1_500, 20)
    scripted.nvlink(0, transmitted_bytes=10 * 1024, received_bytes=3 * 1024)
    scripted.nvlink(17, transmitted_bytes=5 * 1024, received_bytes=1024)
    scripted.nvlink(3, active=False)
    with opened() as nvml:
        assert nvml.rare(nvml.devices[2]) == RareReading(
            processes=(),
            pcie_transmitted_bytes_per_s=1_500_000,
            pcie_received_bytes_per_s=20_000,
            nvlink_transmitted_bytes=15 * 1024,
            nvlink_received_bytes=4 * 1024,
        )


def test_instant_power_of_the_stub_is_read_where_there_is_a_field_for_it(h100: NvmlStub) -> None:
    h100.set_time(0)
    h100.devices[0].power_w(600, at_s=10)
    h100.set_time(10.5)
    with opened() as nvml:
        assert nvml.fast(nvml.devices[0]).power_w == 600.0
        assert h100.calls("nvmlDeviceGetPowerUsage") == 0


def test_average_power_of_the_stub_is_read_where_there_is_no_field(h100: NvmlStub) -> None:
    h100.set_time(0)
    h100.devices[0].power_w(600, at_s=10)
    h100.set_time(10.5)
    h100.devices[0].fail("nvmlDeviceGetFieldValues", pynvml.NVML_ERROR_NOT_SUPPORTED)
    with opened() as nvml:
        assert nvml.fast(nvml.devices[0]).power_w == pytest.approx(335.0)
        assert "power_w" not in nvml.absences(nvml.devices[0])


def test_xids_of_the_stub_are_counted_from_the_first_look_on_and_across_reopening(t4x2: NvmlStub) -> None:
    with opened() as nvml:
        first, second = nvml.devices
        t4x2.devices[0].xid(79)
        assert nvml.slow(first).xid_errors == 0
        for code in (13, 31, 79):
            t4x2.devices[0].xid(code)
        assert nvml.slow(first).xid_errors == 3
        assert nvml.slow(second).xid_errors == 0
        nvml.open()
        assert nvml.slow(first).xid_errors == 3
        nvml.close()
        nvml.open()
        assert nvml.slow(first).xid_errors == 3
        t4x2.devices[0].xid(48)
        assert nvml.slow(first).xid_errors == 4


def test_a_storm_of_xids_on_the_stub_does_not_keep_one_reading_for_ever(
    t4x2: NvmlStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_one_more = loaded(monkeypatch, "nvmlEventSetWait_v2", lambda *_: pynvml.NVML_SUCCESS)
    with always_one_more, opened() as nvml:
        assert [nvml.slow(nvml.devices[0]).xid_errors for _ in range(2)] == [256, 512]


def test_event_sets_are_given_back_to_the_stub(t4x2: NvmlStub) -> None:
    with opened() as nvml:
        for _ in range(100):
            for device in nvml.devices:
                assert nvml.slow(device).xid_errors == 0
            nvml.open()
    assert t4x2.calls("nvmlEventSetFree") == t4x2.calls("nvmlEventSetCreate") == 200


def test_a_gpu_of_the_stub_that_does_not_answer_at_opening_is_said_beside_the_one_that_does(t4x2: NvmlStub) -> None:
    t4x2.devices[1].lose()
    with opened() as nvml:
        assert len(nvml.devices) == 1
        assert nvml.status.message == "1 GPU can be read, and 1 GPU there not"
        assert "xid" in nvml.status.fix


def test_mig_instances_of_the_stub_follow_their_gpu_and_tell_their_memory(a100_mig: NvmlStub) -> None:
    a100_mig.devices[0].mig_memory_used(1, 700 * MIB)
    with opened() as nvml:
        assert nvml.status.message == "1 GPU and 3 MIG instances can be read"
        gpu, *instances = nvml.devices
        assert (gpu.mig_enabled, gpu.parent_uuid) == (True, None)
        assert [device.uuid for device in instances] == [mig.uuid for mig in A100_MIG[0].mig or ()]
        for instance, mig in zip(instances, A100_MIG[0].mig or (), strict=True):
            assert instance.parent_uuid == gpu.uuid
            assert instance.index == gpu.index
            assert instance.memory_total_bytes == mig.memory_total_bytes
            assert instance.compute_capability == (8, 0)
            assert instance.pci_bus_id == gpu.pci_bus_id
            assert (instance.power_limit_w, instance.mig_enabled) == (None, None)
            assert mig.profile in instance.name
        assert nvml.fast(instances[1]) == FastReading(memory_used_bytes=700 * MIB)
        assert "not supported on a MIG instance" in nvml.absences(instances[1])["utilization"]


def test_a_mig_instance_of_the_stub_is_not_asked_for_the_power_of_its_whole_gpu(tmp_path: Path) -> None:
    with NvmlStub([replace(A100_MIG[0], mig_power=True)], tmp_path), opened() as nvml:
        gpu, *instances = nvml.devices
        assert nvml.fast(gpu).power_w is not None
        for instance in instances:
            reading = nvml.fast(instance)
            assert (reading.power_w, reading.energy_mj) == (None, None)
            assert "whole GPU" in nvml.absences(instance)["energy_mj"]


def test_a_gpu_of_the_stub_split_by_mig_tells_power_and_no_utilization(a100_mig: NvmlStub) -> None:
    with opened() as nvml:
        gpu = nvml.devices[0]
        reading = nvml.fast(gpu)
        assert (reading.power_w, reading.utilization, reading.memory_controller_utilization) == (50.0, None, None)
        assert (
            nvml.absences(gpu)["utilization"]
            == "nvmlDeviceGetUtilizationRates is not supported on a GPU split into MIG instances"
        )


def test_a_gpu_of_the_stub_that_could_be_split_and_is_not_says_so(h100: NvmlStub) -> None:
    with opened() as nvml:
        assert [device.mig_enabled for device in nvml.devices] == [False]


def test_a_laptop_of_the_stub_lacks_figures_and_says_why(laptop: NvmlStub) -> None:
    laptop.devices[0].processes([StubProcess(pid=1, memory_bytes=MIB)])
    with opened() as nvml:
        device = nvml.devices[0]
        missing = {
            "energy_mj",
            "ecc_corrected",
            "ecc_uncorrected",
            "nvlink_transmitted_bytes",
            "nvlink_received_bytes",
            "processes.utilization",
        }
        assert absent(nvml, device) == missing
        assert nvml.absences(device).keys() == missing
        assert device.power_limit_w is None
        assert nvml.fast(device).power_w == 8.0


def test_a_figure_that_the_stub_refused_is_not_asked_for_again_before_reopening(laptop: NvmlStub) -> None:
    asked = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetTotalEccErrors")
    with opened() as nvml:
        device = nvml.devices[0]
        readings(nvml, device)
        before = [laptop.calls(function) for function in asked]
        for _ in range(10):
            readings(nvml, device)
        assert [laptop.calls(function) for function in asked] == before
        nvml.open()
        assert nvml.absences(device) == {}
        readings(nvml, device)
        assert laptop.calls(asked[0]) == before[0] + 1


@pytest.mark.parametrize("function", FIGURES)
@pytest.mark.parametrize("word", FINAL)
def test_a_refused_function_of_the_stub_leaves_its_figures_out_and_all_others_in(
    t4x2: NvmlStub, function: str, word: str
) -> None:
    t4x2.devices[0].processes([StubProcess(pid=1, memory_bytes=MIB, utilization=5)])
    when, figures = FIGURES[function]
    with opened() as nvml:
        device, other = nvml.devices
        always = absent(nvml, device)
        t4x2.devices[0].fail(function, FINAL[word])
        if function in OLDER_WAYS:
            t4x2.devices[0].fail(OLDER_WAYS[function], FINAL[word])
        nvml.open()
        expected = figures | ({"processes.utilization"} if function.endswith("Processes_v3") else set())
        assert absent(nvml, device) == always | expected
        reasons = nvml.absences(device)
        assert reasons.keys() == always | figures
        # Of power the first way is not supported, which says more than that the second is missing.
        said = "not supported" if (function, word) == ("nvmlDeviceGetPowerUsage", "has no") else word
        assert all(said in reasons[figure] for figure in figures)
        asked = t4x2.calls(function)
        getattr(nvml, when)(device)
        assert t4x2.calls(function) == asked
        assert not nvml.is_lost(device)
        assert absent(nvml, other) == always | {"processes.utilization"}
        # Opened again, it is asked again.
        t4x2.devices[0].fail(function, 0)
        nvml.open()
        assert getattr(nvml, when)(device) is not None
        assert t4x2.calls(function) > asked


@pytest.mark.parametrize("function", FIGURES)
@pytest.mark.parametrize("code", PASSING)
def test_a_passing_error_of_the_stub_costs_one_reading(t4x2: NvmlStub, function: str, code: int) -> None:
    t4x2.devices[0].processes([StubProcess(pid=1, memory_bytes=MIB, utilization=5)])
    when, figures = FIGURES[function]
    with opened() as nvml:
        device = nvml.devices[0]
        if function != "nvmlDeviceRegisterEvents":  # That one is asked once, and events come by themselves then.
            readings(nvml, device)
        t4x2.devices[0].fail(function, code)
        for _ in range(2 * PATIENCE):
            asked = t4x2.calls(function)
            getattr(nvml, when)(device)
            assert t4x2.calls(function) > asked
        assert figures <= nvml.absences(device).keys()
        assert all(nvml.absences(device)[figure].endswith("it is asked again") for figure in figures)
        assert not nvml.is_lost(device)
        t4x2.devices[0].fail(function, 0)
        t4x2.advance(1)
        getattr(nvml, when)(device)
        assert not figures & nvml.absences(device).keys()


@pytest.mark.parametrize("function", FIGURES)
@pytest.mark.parametrize("code", GONE)
def test_a_device_of_the_stub_that_is_gone_is_lost_whichever_call_finds_out(
    t4x2: NvmlStub, function: str, code: int
) -> None:
    t4x2.devices[0].processes([StubProcess(pid=1, memory_bytes=MIB, utilization=5)])
    with opened() as nvml:
        device, other = nvml.devices
        t4x2.devices[0].fail(function, code)
        readings(nvml, device)
        assert nvml.is_lost(device)
        assert (nvml.fast(device), nvml.slow(device), nvml.rare(device)) == (
            None,
            SlowReading(),
            RareReading(),
        )
        assert not nvml.is_lost(other)
        assert nvml.status.state is DriverState.READY
        t4x2.devices[0].fail(function, 0)
        assert nvml.open().state is DriverState.READY
        assert not nvml.is_lost(device)
        assert absent(nvml, device) == {"nvlink_transmitted_bytes", "nvlink_received_bytes"}


def test_a_lost_gpu_of_the_stub_is_not_asked_again_and_comes_back_on_reopening(t4x2: NvmlStub) -> None:
    with opened() as nvml:
        first, second = nvml.devices
        t4x2.devices[0].lose()
        assert nvml.fast(first) is None
        assert (nvml.is_lost(first), nvml.is_lost(second)) == (True, False)
        asked = t4x2.calls()
        assert nvml.slow(first) == SlowReading()
        assert t4x2.calls() == asked
        assert nvml.fast(second).power_w == 10.0
        # Still gone: it stays in the list, and the other one is read as before.
        assert nvml.open().state is DriverState.READY
        assert set(nvml.devices) == {first, second}
        assert (nvml.is_lost(first), nvml.is_lost(second)) == (True, False)
        assert nvml.status.message == "1 GPU can be read, and 1 GPU there not"
        t4x2.devices[0].restore()
        nvml.open()
        assert nvml.devices == (first, second)
        assert not nvml.is_lost(first)
        assert nvml.fast(first).power_w == 10.0


def test_the_last_gpu_of_the_stub_to_go_makes_the_status_lost_until_it_is_back(laptop: NvmlStub) -> None:
    with opened() as nvml:
        (device,) = nvml.devices
        laptop.devices[0].lose()
        nvml.fast(device)
        assert nvml.status.state is DriverState.LOST
        assert nvml.status.driver_version == "550.54.15"
        assert "nvidia-smi --gpu-reset" in nvml.status.fix
        assert nvml.open().state is DriverState.LOST
        assert nvml.devices == (device,)
        assert nvml.is_lost(device)
        assert nvml.fast(device) is None
        laptop.devices[0].restore()
        assert nvml.open().state is DriverState.READY
        assert nvml.fast(device).power_w == 8.0


def test_a_gpu_of_the_stub_lost_before_it_was_ever_seen_is_a_status(laptop: NvmlStub) -> None:
    laptop.devices[0].lose()
    with opened() as nvml:
        assert nvml.status.state is DriverState.LOST
        assert nvml.devices == ()


def test_a_mig_gpu_of_the_stub_is_lost_with_its_instances_and_comes_back_with_them(a100_mig: NvmlStub) -> None:
    with opened() as nvml:
        devices = nvml.devices
        a100_mig.devices[0].lose()
        for device in devices:
            nvml.fast(device)
        assert all(nvml.is_lost(device) for device in devices)
        assert nvml.open().state is DriverState.LOST
        assert set(nvml.devices) == set(devices)
        a100_mig.devices[0].restore()
        assert nvml.open().state is DriverState.READY
        assert nvml.devices == devices


def test_mig_instances_of_the_stub_that_were_taken_down_are_not_missed(a100_mig: NvmlStub) -> None:
    with opened() as nvml:
        gpu, instance, *_ = nvml.devices
        a100_mig.devices[0].mig_enabled(False)
        assert nvml.fast(instance) == FastReading()
        assert not nvml.is_lost(instance)
        assert nvml.open().state is DriverState.READY
        assert [device.uuid for device in nvml.devices] == [gpu.uuid]
        assert nvml.devices[0].mig_enabled is False
        assert nvml.fast(gpu).utilization == 0.0


def test_an_unknown_error_of_the_stub_that_stays_from_the_start_leaves_the_older_way(t4x2: NvmlStub) -> None:
    t4x2.devices[0].memory_used(100 * MIB)
    t4x2.devices[0].fail("nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_UNKNOWN)
    with opened() as nvml:
        device = nvml.devices[0]
        assert device.memory_total_bytes == 15360 * MIB
        assert device.memory_reserved_bytes is None
        seen = [nvml.fast(device).memory_used_bytes for _ in range(PATIENCE + 1)]
        assert seen == [None, None, 100 * MIB, 100 * MIB]
        assert "memory_used_bytes" not in nvml.absences(device)


FAST_CALLS = (
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetTotalEnergyConsumption",
)


@pytest.mark.parametrize("refused", [c for n in range(5) for c in itertools.combinations(FAST_CALLS, n)], ids=",".join)
def test_later_readings_of_the_stub_are_what_a_first_one_says(h100: NvmlStub, refused: tuple[str, ...]) -> None:
    scripted = h100.devices[0]
    for function in refused:
        scripted.fail(function, pynvml.NVML_ERROR_NOT_SUPPORTED)
    with opened() as nvml:
        for number in range(1, 5):
            scripted.memory_used(number * 2**34)
            scripted.utilization(10 * number, number)
            scripted.power_w(100.0 * number)
            h100.advance(2)  # Power that is an average is one of a second.
            with opened() as anew:
                expected = anew.fast(anew.devices[0])
            assert expected is not None
            assert nvml.fast(nvml.devices[0]) == expected
            assert (expected.memory_used_bytes, expected.power_w) == (number * 2**34, 100.0 * number)
            assert expected.utilization == (None if FAST_CALLS[1] in refused else number / 10)


def test_an_unknown_error_of_a_stub_function_that_has_answered_never_gives_it_up(t4x2: NvmlStub) -> None:
    with opened() as nvml:
        device = nvml.devices[0]
        nvml.fast(device)
        t4x2.devices[0].fail("nvmlDeviceGetTotalEnergyConsumption", pynvml.NVML_ERROR_UNKNOWN)
        assert [nvml.fast(device).energy_mj for _ in range(10 * PATIENCE)] == [None] * (10 * PATIENCE)
        t4x2.devices[0].fail("nvmlDeviceGetTotalEnergyConsumption", 0)
        assert nvml.fast(device).energy_mj is not None


@pytest.mark.parametrize("older", OLDER_WAYS)
def test_stub_drivers_without_a_function_are_asked_the_other_way(t4x2: NvmlStub, older: str) -> None:
    t4x2.devices[0].fail(older, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    when, figures = FIGURES[older]
    with opened() as nvml:
        device = nvml.devices[0]
        reading = getattr(nvml, when)(device)
        assert all(getattr(reading, figure) is not None for figure in figures)
        assert not figures & nvml.absences(device).keys()
        assert t4x2.calls(OLDER_WAYS[older]) > 0


def test_a_way_missing_in_the_stub_does_not_hide_why_the_other_was_refused(t4x2: NvmlStub) -> None:
    t4x2.devices[0].fail("nvmlDeviceGetTemperature", pynvml.NVML_ERROR_NOT_SUPPORTED)
    t4x2.devices[0].fail("nvmlDeviceGetTemperatureV", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    with opened() as nvml:
        nvml.slow(nvml.devices[0])
        reason = nvml.absences(nvml.devices[0])["temperature_c"]
        assert reason == "nvmlDeviceGetTemperature is not supported on this device"


@pytest.mark.parametrize(
    ("function", "figure"),
    [
        ("nvmlEventSetCreate", "xid_errors"),
        ("nvmlDeviceGetProcessUtilization", "processes.utilization"),
    ],
)
def test_a_binding_without_a_function_of_the_stub_lacks_the_figure_and_says_so(
    t4x2: NvmlStub, monkeypatch: pytest.MonkeyPatch, function: str, figure: str
) -> None:
    t4x2.devices[0].processes([StubProcess(pid=1, memory_bytes=MIB)])
    monkeypatch.delattr(pynvml, function)
    with opened() as nvml:
        device = nvml.devices[0]
        assert readings(nvml, device)[figure] is None
        assert nvml.absences(device)[figure].startswith("the installed nvidia-ml-py has no nvml")


@pytest.mark.parametrize(
    ("function", "figure"),
    [
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_mj"),
        ("nvmlDeviceGetUtilizationRates", "utilization"),
        ("nvmlDeviceGetTotalEccErrors", "ecc_corrected"),
        ("nvmlDeviceGetPcieThroughput", "pcie_received_bytes_per_s"),
    ],
)
def test_a_library_of_the_stub_without_a_function_lacks_the_figure_and_says_so(
    t4x2: NvmlStub, monkeypatch: pytest.MonkeyPatch, function: str, figure: str
) -> None:
    with loaded(monkeypatch, function), opened() as nvml:
        device = nvml.devices[0]
        assert readings(nvml, device)[figure] is None
        assert nvml.absences(device)[figure] == f"the driver has no {function}"


def test_a_library_of_the_stub_from_before_memory_version_two_counts_reserved_memory_as_used(
    t4x2: NvmlStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    t4x2.devices[0].figure("memory_reserved", 400 * MIB)
    t4x2.devices[0].memory_used(500 * MIB)
    with loaded(monkeypatch, "nvmlDeviceGetMemoryInfo_v2"), opened() as nvml:
        assert nvml.fast(nvml.devices[0]).memory_used_bytes == 500 * MIB


def test_whatever_the_binding_of_the_stub_raises_stays_in_the_reader(
    t4x2: NvmlStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pynvml, "nvmlEventSetCreate", surprise)
    with opened() as nvml:
        device = nvml.devices[0]
        assert nvml.slow(device).xid_errors is None
        assert nvml.absences(device)["xid_errors"] == "nvmlDeviceRegisterEvents failed: ZeroDivisionError"


@pytest.mark.parametrize(
    ("visible", "expected", "hidden"),
    [
        (None, [0, 1], 0),
        ("0,1", [0, 1], 0),
        ("1,0", [1, 0], 0),
        ("1", [1], 1),
        (TESLA_T4_X2[1].uuid, [1], 1),
        ("0,7", [0], 1),
    ],
)
def test_the_devices_of_the_stub_are_those_that_cuda_would_use(
    t4x2: NvmlStub, visible: str | None, expected: list[int], hidden: int
) -> None:
    with opened({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) as nvml:
        assert [device.index for device in nvml.devices] == expected
        assert (nvml.status.state, nvml.status.hidden) == (DriverState.READY, hidden)
        assert nvml.fast(nvml.devices[0]).power_w == 10.0


@pytest.mark.parametrize("visible", ["", "-1", "0,0", "GPU-7e0a5700"])
def test_hiding_every_device_of_the_stub_is_a_state_of_its_own(t4x2: NvmlStub, visible: str) -> None:
    with opened({"CUDA_VISIBLE_DEVICES": visible}) as nvml:
        assert (nvml.status.state, nvml.status.hidden) == (DriverState.NO_DEVICE, 2)
        assert nvml.devices == ()
        assert nvml.status.message == f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU (2 there)"
        assert nvml.status.fix.startswith("unset CUDA_VISIBLE_DEVICES")
        assert nvml.status.driver_version == "550.54.15"


def test_mig_instances_of_the_stub_can_be_named_alone_or_come_with_their_gpu(a100_mig: NvmlStub) -> None:
    instances = [mig.uuid for mig in A100_MIG[0].mig or ()]
    with opened({"CUDA_VISIBLE_DEVICES": f"{instances[2]},{instances[0]}"}) as nvml:
        assert [device.uuid for device in nvml.devices] == [instances[2], instances[0]]
        assert nvml.status.hidden == 2
        assert nvml.status.message == "2 MIG instances can be read"
    with opened({"CUDA_VISIBLE_DEVICES": "0"}) as nvml:
        assert [device.uuid for device in nvml.devices] == [A100_MIG[0].uuid, *instances]
        assert nvml.status.hidden == 0


def test_the_environment_is_read_at_each_opening_of_the_stub(t4x2: NvmlStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    nvml = Nvml()
    nvml.open()
    assert [device.index for device in nvml.devices] == [1]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    nvml.open()
    assert [device.index for device in nvml.devices] == [0, 1]
    nvml.close()


def test_a_lost_gpu_of_the_stub_keeps_its_index_so_that_others_stay_visible(t4x2: NvmlStub) -> None:
    t4x2.devices[0].lose()
    with opened({"CUDA_VISIBLE_DEVICES": "1"}) as nvml:
        assert [device.uuid for device in nvml.devices] == [TESLA_T4_X2[1].uuid]
        assert nvml.status.hidden == 0


def test_a_stub_driver_without_devices_is_a_state(tmp_path: Path) -> None:
    with NvmlStub((), tmp_path), opened() as nvml:
        assert nvml.status.state is DriverState.NO_DEVICE
        assert nvml.status.message == "the NVIDIA driver runs and shows no GPU"
        assert nvml.devices == ()


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, DriverState.NO_DRIVER),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, DriverState.NO_DRIVER),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, DriverState.VERSION_MISMATCH),
        (pynvml.NVML_ERROR_NO_PERMISSION, DriverState.NO_PERMISSION),
        (pynvml.NVML_ERROR_GPU_IS_LOST, DriverState.LOST),
        (pynvml.NVML_ERROR_UNKNOWN, DriverState.FAILED),
        (pynvml.NVML_ERROR_TIMEOUT, DriverState.FAILED),
    ],
)
@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
def test_a_stub_driver_that_cannot_be_opened_is_a_state_and_opens_once_it_can(
    t4x2: NvmlStub, function: str, code: int, state: DriverState
) -> None:
    t4x2.fail(function, code)
    nvml = Nvml({})
    status = nvml.open()
    assert (status, status.state) == (nvml.status, state)
    assert status.message
    assert status.fix
    assert nvml.devices == ()
    t4x2.fail(function, 0)
    assert nvml.open().state is DriverState.READY
    assert len(nvml.devices) == 2
    nvml.close()


def test_a_driver_of_the_stub_that_goes_away_takes_the_devices_with_it(t4x2: NvmlStub) -> None:
    with opened() as nvml:
        device = nvml.devices[0]
        t4x2.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        assert nvml.open().state is DriverState.NO_DRIVER
        assert nvml.devices == ()
        assert nvml.fast(device) is None
        assert not nvml.is_lost(device)


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetName",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetPciInfo_v3",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetMigMode",
    ],
)
def test_a_device_of_the_stub_is_listed_without_what_it_does_not_tell(t4x2: NvmlStub, function: str) -> None:
    t4x2.devices[0].fail(function, pynvml.NVML_ERROR_NO_PERMISSION)
    with opened() as nvml:
        assert [device.uuid for device in nvml.devices] == [device.uuid for device in TESLA_T4_X2]
        assert nvml.devices[0].name in {"Tesla T4", "NVIDIA GPU"}


@pytest.mark.parametrize("function", ["nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion_v2"])
def test_a_version_that_the_stub_does_not_tell_is_none(t4x2: NvmlStub, function: str) -> None:
    t4x2.fail(function, pynvml.NVML_ERROR_UNKNOWN)
    with opened() as nvml:
        assert nvml.status.state is DriverState.READY
        assert None in (nvml.status.driver_version, nvml.status.cuda_version)


def test_one_device_of_the_stub_that_may_not_be_opened_does_not_hide_the_other(t4x2: NvmlStub) -> None:
    t4x2.devices[0].fail("nvmlDeviceGetHandleByIndex_v2", pynvml.NVML_ERROR_NO_PERMISSION)
    with opened() as nvml:
        assert [device.index for device in nvml.devices] == [1]
        t4x2.devices[1].fail("nvmlDeviceGetHandleByIndex_v2", pynvml.NVML_ERROR_NO_PERMISSION)
    with opened() as nvml:
        assert nvml.status.state is DriverState.NO_PERMISSION


def test_opening_and_closing_the_stub_may_be_repeated_in_any_order(t4x2: NvmlStub) -> None:
    nvml = Nvml({})
    assert (nvml.status.state, nvml.devices) == (DriverState.FAILED, ())
    nvml.close()
    nvml.open()
    devices = nvml.devices
    nvml.open()
    assert nvml.devices == devices
    nvml.close()
    nvml.close()
    assert (nvml.status.state, nvml.devices) == (DriverState.FAILED, ())
    assert nvml.fast(devices[0]) is None
    assert nvml.absences(devices[0]) == {}
    assert t4x2.calls("nvmlShutdown") == t4x2.calls("nvmlInitWithFlags") == 2


def test_closing_survives_a_driver_of_the_stub_that_cannot(t4x2: NvmlStub) -> None:
    t4x2.fail("nvmlShutdown", pynvml.NVML_ERROR_UNKNOWN)
    t4x2.fail("nvmlEventSetFree", pynvml.NVML_ERROR_UNKNOWN)
    nvml = Nvml({})
    nvml.open()
    nvml.slow(nvml.devices[0])
    nvml.close()
    assert nvml.devices == ()


def test_two_readers_of_the_stub_do_not_close_each_other(t4x2: NvmlStub) -> None:
    with opened() as one:
        with opened() as other:
            assert other.fast(other.devices[0]).power_w == 10.0
        assert one.fast(one.devices[0]).power_w == 10.0


def test_a_forked_child_does_not_shut_the_stub_down_for_its_parent(t4x2: NvmlStub) -> None:
    with opened() as nvml:
        nvml.slow(nvml.devices[0])
        child = os.fork()
        if child == 0:
            nvml.open()
            os._exit(0 if nvml.fast(nvml.devices[0]).power_w == 10.0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert t4x2.calls("nvmlShutdown") == t4x2.calls("nvmlEventSetFree") == 0
        assert t4x2.calls("nvmlInitWithFlags") == 2
    assert t4x2.calls("nvmlShutdown") == 1


def test_a_binding_that_cannot_be_imported_is_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> ModuleType:
        raise ImportError(f"cannot import {name}")

    monkeypatch.delitem(sys.modules, "pynvml")
    monkeypatch.setattr(importlib, "import_module", refuse)
    nvml = Nvml({})
    assert nvml.open().state is DriverState.FAILED
    assert "nvidia-ml-py" in nvml.status.fix


def test_a_fast_reading_of_the_stub_costs_four_calls(h100: NvmlStub) -> None:
    with opened() as nvml:
        device = nvml.devices[0]
        nvml.fast(device)
        before = h100.calls()
        nvml.fast(device)
        assert h100.calls() == before + 4


def test_all_four_machines_of_the_stub_can_be_read_whole(tmp_path: Path) -> None:
    for devices in (TESLA_T4_X2, A100_MIG, H100, LAPTOP):
        with NvmlStub(devices, tmp_path), opened() as nvml:
            for device in nvml.devices:
                assert absent(nvml, device) - {"processes.utilization"} == nvml.absences(device).keys()
                assert nvml.fast(device).memory_used_bytes is not None
