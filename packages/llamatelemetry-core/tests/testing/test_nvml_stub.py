"""The NVML stub through NVIDIA's own binding. Every figure here was scripted; none was measured."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pynvml
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamatelemetry.errors import IntegrityError, InvalidValueError, MissingDependencyError, UnknownNameError
from llamatelemetry.testing import nvml_stub_state
from llamatelemetry.testing.nvml_stub import (
    A100_MIG,
    A100_X4,
    H100,
    H100_X8,
    LAPTOP,
    TESLA_T4_X2,
    NvmlStub,
    StubDevice,
    StubProcess,
)

SCENARIOS = {
    "T4 x 2": TESLA_T4_X2,
    "A100 with MIG": A100_MIG,
    "A100 x 4": A100_X4,
    "H100": H100,
    "H100 x 8": H100_X8,
    "laptop": LAPTOP,
}
ALL_LINKS = 0xFFFFFFFF
ENERGY, AVERAGE, INSTANT = 83, 185, 186


@pytest.fixture
def t4s(tmp_path: Path) -> Iterator[NvmlStub]:
    with opened(tmp_path, TESLA_T4_X2) as stub:
        yield stub


class opened(NvmlStub):  # noqa: N801 - reads as the function that it stands for
    """Entered, initialised, and at time zero."""

    def __init__(self, folder: Path, devices: tuple[StubDevice, ...]) -> None:
        super().__init__(devices, folder)

    def __enter__(self) -> Self:
        super().__enter__()
        self.set_time(0)
        pynvml.nvmlInit()
        return self


def handle(index: int = 0) -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def field(device: Any, number: int | tuple[int, int]) -> tuple[int, int]:
    """What a field answers: NVML's return code, and the value as a whole number."""
    answer = pynvml.nvmlDeviceGetFieldValues(device, [number])[0]
    wide = answer.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
    return answer.nvmlReturn, answer.value.ullVal if wide else answer.value.uiVal


def not_supported(function: Any, *arguments: Any) -> bool:
    with pytest.raises(pynvml.NVMLError_NotSupported):
        function(*arguments)
    return True


# ---------------------------------------------------------------- scenarios


@pytest.mark.parametrize("devices", SCENARIOS.values(), ids=SCENARIOS)
def test_every_stub_scenario_answers_the_real_binding(devices: tuple[StubDevice, ...], tmp_path: Path) -> None:
    with opened(tmp_path, devices):
        assert pynvml.nvmlDeviceGetCount() == len(devices)
        assert pynvml.nvmlSystemGetDriverVersion() == "550.54.15"
        assert pynvml.nvmlSystemGetCudaDriverVersion_v2() == 12_040
        for index, device in enumerate(devices):
            found = handle(index)
            assert pynvml.nvmlDeviceGetName(found) == device.name
            assert pynvml.nvmlDeviceGetUUID(found) == device.uuid
            assert pynvml.nvmlDeviceGetIndex(found) == index
            assert pynvml.nvmlDeviceGetCudaComputeCapability(found) == device.compute_capability
            assert pynvml.nvmlDeviceGetPciInfo(found).busId == device.pci_bus_id
            assert pynvml.nvmlDeviceGetMemoryInfo(found).total == device.memory_total_bytes
            assert pynvml.nvmlDeviceGetPowerUsage(found) == (device.idle_power_w or 0) * 1000
            assert pynvml.nvmlDeviceGetTemperature(found, pynvml.NVML_TEMPERATURE_GPU) == device.temperature_c
            assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(found) == 0
            assert pynvml.nvmlDeviceGetComputeRunningProcesses(found) == []
            for by, key in (("UUID", device.uuid), ("PciBusId", device.pci_bus_id)):
                same = getattr(pynvml, f"nvmlDeviceGetHandleBy{by}")(key)
                assert pynvml.nvmlDeviceGetIndex(same) == index


def test_a_stub_t4_has_an_energy_counter_and_neither_instant_power_nor_nvlink_nor_mig(t4s: NvmlStub) -> None:
    device = handle()
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(device) == 0
    assert pynvml.nvmlDeviceGetArchitecture(device) == pynvml.NVML_DEVICE_ARCH_TURING
    assert pynvml.nvmlDeviceGetEccMode(device) == [1, 1]
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(device) == 70_000
    assert pynvml.nvmlDeviceGetPowerManagementLimitConstraints(device) == [60_000, 70_000]
    assert field(device, INSTANT)[0] == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert not_supported(pynvml.nvmlDeviceGetNvLinkState, device, 0)
    assert not_supported(pynvml.nvmlDeviceGetMigMode, device)
    assert not_supported(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, device, 0)
    assert not_supported(pynvml.nvmlDeviceGetFanSpeed, device)
    assert not_supported(pynvml.nvmlDeviceGetNumaNodeId, device)
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(device) == 0


def test_a_stub_a100_split_by_mig_tells_its_memory_and_little_else(tmp_path: Path) -> None:
    described = A100_MIG[0].mig or ()
    with opened(tmp_path, A100_MIG) as stub:
        whole = handle()
        assert pynvml.nvmlDeviceGetMigMode(whole) == [1, 1]
        assert not_supported(pynvml.nvmlDeviceGetUtilizationRates, whole)
        assert pynvml.nvmlDeviceGetPowerUsage(whole) == 50_000
        assert pynvml.nvmlDeviceGetMaxMigDeviceCount(whole) == 7
        for index, instance in enumerate(described):
            mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, index)
            assert pynvml.nvmlDeviceIsMigDeviceHandle(mig).value == 1
            assert pynvml.nvmlDeviceGetUUID(mig) == instance.uuid
            assert pynvml.nvmlDeviceGetName(mig) == f"NVIDIA A100-SXM4-40GB MIG {instance.profile}"
            assert pynvml.nvmlDeviceGetIndex(mig) == index
            assert pynvml.nvmlDeviceGetGpuInstanceId(mig) == instance.gpu_instance
            assert pynvml.nvmlDeviceGetComputeInstanceId(mig) == instance.compute_instance
            assert pynvml.nvmlDeviceGetAttributes(mig).gpuInstanceSliceCount == int(instance.profile[0])
            assert pynvml.nvmlDeviceGetMemoryInfo(mig).total == instance.memory_total_bytes
            again = pynvml.nvmlDeviceGetHandleByUUID(instance.uuid)
            parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(again)
            assert pynvml.nvmlDeviceGetUUID(parent) == A100_MIG[0].uuid
            for refused in (
                pynvml.nvmlDeviceGetPowerUsage,
                pynvml.nvmlDeviceGetTotalEnergyConsumption,
                pynvml.nvmlDeviceGetUtilizationRates,
                pynvml.nvmlDeviceGetCurrentClocksEventReasons,
            ):
                assert not_supported(refused, mig)
        first = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, 0)
        stub.devices[0].mig_memory_used(0, 123 * 2**20)
        assert pynvml.nvmlDeviceGetMemoryInfo(first).used == 123 * 2**20
        with pytest.raises(pynvml.NVMLError_NotFound):
            pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, len(described))
        stub.devices[0].mig_enabled(False)
        assert pynvml.nvmlDeviceGetMigMode(whole) == [0, 0]
        assert pynvml.nvmlDeviceGetMaxMigDeviceCount(whole) == 0
        assert pynvml.nvmlDeviceGetUtilizationRates(whole).gpu == 0
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlDeviceGetUUID(first)


def test_a_stub_may_pass_its_whole_power_off_as_that_of_a_mig_instance(tmp_path: Path) -> None:
    with opened(tmp_path, (dataclasses.replace(A100_MIG[0], mig_power=True),)) as stub:
        mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle(), 2)
        stub.set_time(2)
        assert pynvml.nvmlDeviceGetPowerUsage(mig) == 50_000
        assert pynvml.nvmlDeviceGetTotalEnergyConsumption(mig) == 100_000
        assert field(mig, INSTANT) == (pynvml.NVML_SUCCESS, 50_000)
        assert field(mig, pynvml.NVML_FI_DEV_MEMORY_TEMP)[0] == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_processes_of_a_stub_are_listed_by_the_mig_instance_that_they_run_on(tmp_path: Path) -> None:
    with opened(tmp_path, A100_MIG) as stub:
        stub.devices[0].processes(
            [
                StubProcess(pid=11, memory_bytes=100, gpu_instance=1, compute_instance=0),
                StubProcess(pid=22, memory_bytes=200, gpu_instance=5, compute_instance=0),
            ]
        )
        mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle(), 1)
        assert [(p.pid, p.usedGpuMemory) for p in pynvml.nvmlDeviceGetComputeRunningProcesses(mig)] == [(22, 200)]
        assert len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle())) == 2


def test_a_stub_laptop_has_no_energy_counter_no_ecc_and_no_power_limit(tmp_path: Path) -> None:
    with opened(tmp_path, LAPTOP):
        device = handle()
        assert pynvml.nvmlDeviceGetPowerUsage(device) == 8_000
        for refused in (
            pynvml.nvmlDeviceGetTotalEnergyConsumption,
            pynvml.nvmlDeviceGetEccMode,
            pynvml.nvmlDeviceGetEnforcedPowerLimit,
            pynvml.nvmlDeviceGetSerial,
        ):
            assert not_supported(refused, device)
        assert not_supported(pynvml.nvmlDeviceGetProcessUtilization, device, 0)
        assert field(device, ENERGY)[0] == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_a_stub_device_tells_nothing_that_it_was_not_given(tmp_path: Path) -> None:
    bare = StubDevice(
        name="bare",
        uuid="GPU-0",
        compute_capability=(5, 2),
        memory_total_bytes=1,
        pci_bus_id="00000000:01:00.0",
        idle_power_w=None,
        energy_counter=False,
        utilization=None,
        temperature_c=None,
        slowdown_c=None,
        clocks_mhz=None,
        throttle_reasons=False,
        pcie=None,
        pcie_throughput=False,
        process_lists=False,
        event_types=None,
        numa_node=None,
        cpus=(),
    )
    with opened(tmp_path, (bare,)):
        device, events = handle(), pynvml.nvmlEventSetCreate()
        for refused, *arguments in (
            (pynvml.nvmlDeviceGetPowerUsage,),
            (pynvml.nvmlDeviceGetUtilizationRates,),
            (pynvml.nvmlDeviceGetEncoderUtilization,),
            (pynvml.nvmlDeviceGetTemperature, 0),
            (pynvml.nvmlDeviceGetTemperatureV, 0),
            (pynvml.nvmlDeviceGetTemperatureThreshold, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
            (pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM),
            (pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_SM),
            (pynvml.nvmlDeviceGetCurrentClocksEventReasons,),
            (pynvml.nvmlDeviceGetPcieThroughput, pynvml.NVML_PCIE_UTIL_TX_BYTES),
            (pynvml.nvmlDeviceGetCurrPcieLinkWidth,),
            (pynvml.nvmlDeviceGetComputeRunningProcesses,),
            (pynvml.nvmlDeviceRegisterEvents, pynvml.nvmlEventTypeXidCriticalError, events),
            (pynvml.nvmlDeviceGetCpuAffinity, 2),
            (pynvml.nvmlDeviceGetMemoryAffinity, 2, pynvml.NVML_AFFINITY_SCOPE_NODE),
            (pynvml.nvmlDeviceGetAttributes,),
            (pynvml.nvmlDeviceGetTotalEccErrors, 0, 0),
        ):
            assert not_supported(refused, device, *arguments)


def test_a_function_that_the_stub_lacks_is_missing_as_in_an_old_driver(t4s: NvmlStub) -> None:
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetGspFirmwareVersion(handle())


# ---------------------------------------------------------------- power, energy and time


def test_the_stub_counter_steps_at_its_own_period_and_phase(tmp_path: Path) -> None:
    device = dataclasses.replace(H100[0], counter_period_s=0.1, counter_phase_s=0.03, counter_start_mj=20_000)
    with opened(tmp_path, (device,)) as stub:
        stub.devices[0].power_w(100, at_s=0)
        shown = []
        for milliseconds in range(0, 340, 10):
            stub.set_time(milliseconds / 1000)
            shown.append(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle()))
            assert field(handle(), ENERGY) == (pynvml.NVML_SUCCESS, shown[-1])
    # Before its first step at 30 ms it shows what had been used at -70 ms.
    last_steps_ms = [-70] * 3 + [30] * 10 + [130] * 10 + [230] * 10 + [330]
    assert shown == [20_000 + 100 * step_ms for step_ms in last_steps_ms]


@given(
    curve=st.lists(st.tuples(st.integers(1, 10**10), st.integers(0, 1_000_000)), max_size=30),
    reads=st.lists(st.integers(0, 4 * 10**11), min_size=1, max_size=10),
    period_ns=st.sampled_from([0, 1, 20_000_000, 100_000_000, 33_333_333]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_stub_counter_is_the_exact_integral_of_the_scripted_power(
    curve: list[tuple[int, int]], reads: list[int], period_ns: int, tmp_path: Path
) -> None:
    device = dataclasses.replace(H100[0], counter_period_s=period_ns / 1e9)
    changes = [(0, 70_000)]
    for lasts_ns, milliwatts in curve:
        changes.append((changes[-1][0] + lasts_ns, milliwatts))
    with opened(tmp_path, (device,)) as stub:
        for start_ns, milliwatts in changes:
            stub.devices[0].power_w(milliwatts / 1000, at_s=start_ns / 1e9)
        for read_ns in reads:
            stub.set_time(read_ns / 1e9)
            stepped_ns = read_ns // period_ns * period_ns if period_ns else read_ns
            ends = [start_ns for start_ns, _ in changes[1:]] + [max(stepped_ns, changes[-1][0])]
            picojoules = sum(
                milliwatts * max(0, min(end_ns, stepped_ns) - start_ns)
                for (start_ns, milliwatts), end_ns in zip(changes, ends, strict=True)
            )
            assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle()) == picojoules // 10**9
            assert stub.devices[0].energy_j(0, stepped_ns / 1e9) == picojoules / 1e12


def test_a_stub_curve_of_any_length_keeps_its_integral(tmp_path: Path) -> None:
    device = dataclasses.replace(H100[0], counter_period_s=0)
    with opened(tmp_path, (device,)) as stub:
        for step in range(10_000):
            stub.devices[0].power_w(step % 7, at_s=step / 100)
        stub.set_time(100)
        assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle()) == sum(step % 7 for step in range(10_000)) * 10


def test_power_of_a_stub_is_a_mean_of_a_second_where_there_is_an_instant_field(tmp_path: Path) -> None:
    with opened(tmp_path, (H100[0], TESLA_T4_X2[0])) as stub:
        for device in stub.devices:
            device.power_w(20, at_s=0)
            device.power_w(60, at_s=2)
        stub.set_time(2.25)
        new, old = handle(0), handle(1)
        assert pynvml.nvmlDeviceGetPowerUsage(new) == 30_000
        assert field(new, AVERAGE) == (pynvml.NVML_SUCCESS, 30_000)
        assert field(new, INSTANT) == (pynvml.NVML_SUCCESS, 60_000)
        assert pynvml.nvmlDeviceGetPowerUsage(old) == 60_000


def test_stub_power_is_laid_out_in_order_of_time(t4s: NvmlStub) -> None:
    t4s.devices[0].power_w(50, at_s=2)
    with pytest.raises(InvalidValueError, match="already set from 2"):
        t4s.devices[0].power_w(40)
    t4s.devices[0].power_w(45, at_s=2)
    t4s.advance(3)
    t4s.devices[0].power_w(40)
    assert t4s.devices[0].energy_j(0, 4) == 2 * 10 + 1 * 45 + 1 * 40


def test_a_stub_counter_restarts_with_its_driver(t4s: NvmlStub) -> None:
    t4s.set_time(10)
    before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle())
    t4s.devices[0].restart_counter()
    after = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle())
    t4s.set_time(12)
    assert (before, after) == (100_000, 0)
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle()) == 20_000


def test_the_stub_runs_on_the_real_clock_until_it_is_stopped(tmp_path: Path) -> None:
    device = dataclasses.replace(H100[0], counter_period_s=0)
    with NvmlStub((device,), tmp_path) as stub:
        pynvml.nvmlInit()
        earliest_s = stub.now_s
        shown_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle())
        latest_s = stub.now_s
        assert stub.devices[0].energy_j(0, earliest_s) * 1000 - 1 <= shown_mj
        assert shown_mj <= stub.devices[0].energy_j(0, latest_s) * 1000
        stub.set_time(1)
        assert stub.now_s == 1
        stub.set_time(None)
        assert stub.now_s >= latest_s


def test_a_reader_never_sees_a_stub_curve_that_is_half_written(tmp_path: Path) -> None:
    """The power stays, so that every reading is known; its changes are still written, moved and dropped."""
    device = dataclasses.replace(H100[0], counter_period_s=0, idle_power_w=100.0)
    done = threading.Event()
    wrong: list[int] = []

    def read() -> None:
        while not done.is_set():
            shown = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle())
            if shown != 100_000_000:
                wrong.append(shown)

    with opened(tmp_path, (device,)) as stub:
        stub.set_time(1_000)
        for step in range(4_000):
            stub.devices[0].power_w(100, at_s=step / 100)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for step in range(4_000, 20_000):
                stub.devices[0].power_w(100, at_s=step / 100)
        finally:
            done.set()
            reader.join()
    assert not wrong


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (pynvml.NVML_ERROR_NO_PERMISSION, "NoPermission"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "LibRmVersionMismatch"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "DriverNotLoaded"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown"),
    ],
)
@pytest.mark.parametrize("name", ["nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags"])
def test_an_error_planted_at_a_stubs_init_is_raised_by_the_binding(
    name: str, code: int, error: str, tmp_path: Path
) -> None:
    with NvmlStub(TESLA_T4_X2, tmp_path) as stub:
        stub.fail(name, code)
        with pytest.raises(getattr(pynvml, f"NVMLError_{error}")):
            pynvml.nvmlInit()
        with pytest.raises(pynvml.NVMLError_Uninitialized):
            pynvml.nvmlDeviceGetCount()
        stub.fail(name, 0)
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == 2


def test_an_error_planted_for_one_stub_device_leaves_the_other_alone(t4s: NvmlStub) -> None:
    t4s.devices[0].fail("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_UNKNOWN)
    t4s.devices[1].fail("nvmlDeviceGetHandleByIndex", pynvml.NVML_ERROR_NO_PERMISSION)
    first = handle()
    with pytest.raises(pynvml.NVMLError_Unknown):
        pynvml.nvmlDeviceGetMemoryInfo(first)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        handle(1)
    second = pynvml.nvmlDeviceGetHandleByUUID(TESLA_T4_X2[1].uuid)
    assert pynvml.nvmlDeviceGetMemoryInfo(second).used == 0
    t4s.fail("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_TIMEOUT)
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlDeviceGetMemoryInfo(second)


def test_a_stub_gpu_that_is_lost_answers_so_to_everything_and_comes_back(t4s: NvmlStub) -> None:
    first, second = handle(0), handle(1)
    t4s.devices[0].lose()
    for call in (
        lambda: handle(0),
        lambda: pynvml.nvmlDeviceGetName(first),
        lambda: pynvml.nvmlDeviceGetPowerUsage(first),
        lambda: pynvml.nvmlDeviceGetFieldValues(first, [ENERGY]),
        lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(first),
        lambda: pynvml.nvmlDeviceGetHandleByUUID(TESLA_T4_X2[0].uuid),
        lambda: pynvml.nvmlDeviceGetTopologyCommonAncestor(second, first),
    ):
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            call()
    assert pynvml.nvmlDeviceGetPowerUsage(second) == 10_000
    t4s.set_time(5)
    t4s.devices[0].restore()
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(first) == 50_000


def test_handles_that_no_stub_gave_are_refused(t4s: NvmlStub) -> None:
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        handle(2)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-of-somebody-else")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetName(None)


def test_names_that_the_stub_does_not_know_are_said_at_once(t4s: NvmlStub) -> None:
    for script in (t4s.fail, t4s.devices[0].fail):
        with pytest.raises(UnknownNameError, match="nvmlDeviceGetPowerUsge"):
            script("nvmlDeviceGetPowerUsge", 3)
    with pytest.raises(UnknownNameError, match="temperatur"):
        t4s.devices[0].figure("temperatur", 3)


# ---------------------------------------------------------------- what a device does


def test_scripted_readings_of_a_stub_are_read_as_they_were_written(t4s: NvmlStub) -> None:
    scripted, device = t4s.devices[0], handle()
    scripted.memory_used(3 * 2**30)
    scripted.utilization(87, 41)
    scripted.temperature(71)
    scripted.clocks(1_350, 5_001)
    scripted.throttle(pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonSwThermalSlowdown)
    scripted.ecc_errors(4, 1)
    scripted.pcie_throughput(1_200, 3_400)
    scripted.figure("fan_percent", 30)
    memory = pynvml.nvmlDeviceGetMemoryInfo(device)
    assert (memory.used, memory.free) == (3 * 2**30, memory.total - 3 * 2**30)
    rates = pynvml.nvmlDeviceGetUtilizationRates(device)
    assert (rates.gpu, rates.memory) == (87, 41)
    assert pynvml.nvmlDeviceGetTemperature(device, 0) == 71
    assert pynvml.nvmlDeviceGetTemperatureV(device, 0) == 71
    assert pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM) == 1_350
    assert pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_MEM) == 5_001
    assert pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device) == 0x24
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(device) == 0x24
    assert [pynvml.nvmlDeviceGetTotalEccErrors(device, kind, 0) for kind in (0, 1)] == [4, 1]
    assert field(device, pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL) == (0, 4)
    assert [pynvml.nvmlDeviceGetPcieThroughput(device, way) for way in (0, 1)] == [1_200, 3_400]
    assert pynvml.nvmlDeviceGetFanSpeed(device) == 30


def test_memory_that_a_stub_driver_keeps_is_used_in_the_first_version_only(tmp_path: Path) -> None:
    device = dataclasses.replace(TESLA_T4_X2[0], memory_reserved_bytes=400, memory_used_bytes=1_000)
    with opened(tmp_path, (device,)):
        second = pynvml.nvmlDeviceGetMemoryInfo(handle(), version=pynvml.nvmlMemory_v2)
        assert (second.used, second.reserved) == (600, 400)
        assert pynvml.nvmlDeviceGetMemoryInfo(handle()).used == 1_000
        assert second.free == pynvml.nvmlDeviceGetMemoryInfo(handle()).free


def test_processes_of_a_stub_are_listed_with_the_memory_that_the_driver_tells(t4s: NvmlStub) -> None:
    t4s.devices[0].processes(
        [
            StubProcess(pid=10, memory_bytes=2**30, utilization=60, memory_utilization=20),
            StubProcess(pid=11, utilization=30),
            StubProcess(pid=12, memory_bytes=5, graphics=True),
        ]
    )
    computing = pynvml.nvmlDeviceGetComputeRunningProcesses(handle())
    assert [(process.pid, process.usedGpuMemory) for process in computing] == [(10, 2**30), (11, None)]
    assert [process.pid for process in pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle())] == [12]
    samples = pynvml.nvmlDeviceGetProcessUtilization(handle(), 0)
    assert [(sample.pid, sample.smUtil, sample.memUtil) for sample in samples] == [(10, 60, 20), (11, 30, 0)]
    seen = max(sample.timeStamp for sample in samples)
    with pytest.raises(pynvml.NVMLError_NotFound):  # Nothing newer, as the driver says it.
        pynvml.nvmlDeviceGetProcessUtilization(handle(), seen)
    t4s.advance(0.2)
    assert len(pynvml.nvmlDeviceGetProcessUtilization(handle(), seen)) == 2


def test_xids_of_a_stub_reach_whoever_registered_before_them_and_nobody_twice(t4s: NvmlStub) -> None:
    t4s.devices[0].xid(13)
    events = pynvml.nvmlEventSetCreate()
    assert pynvml.nvmlDeviceGetSupportedEventTypes(handle()) & pynvml.nvmlEventTypeXidCriticalError
    for index in (0, 1):
        pynvml.nvmlDeviceRegisterEvents(handle(index), pynvml.nvmlEventTypeXidCriticalError, events)
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait(events, 0)
    t4s.devices[1].xid(48)
    t4s.devices[0].event(pynvml.nvmlEventTypeDoubleBitEccError)  # Nobody asked for these.
    t4s.devices[1].xid(79)
    heard = [pynvml.nvmlEventSetWait(events, 0) for _ in range(2)]
    assert [(pynvml.nvmlDeviceGetIndex(event.device), event.eventData) for event in heard] == [(1, 48), (1, 79)]
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait(events, 2)
    t4s.devices[1].lose()
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlEventSetWait(events, 0)
    pynvml.nvmlEventSetFree(events)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlEventSetWait(events, 0)


def test_a_stub_that_reports_more_xids_than_it_keeps_drops_the_oldest(t4s: NvmlStub) -> None:
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(handle(), pynvml.nvmlEventTypeXidCriticalError, events)
    for code in range(100):
        t4s.devices[0].xid(code)
    assert pynvml.nvmlEventSetWait(events, 0).eventData == 100 - nvml_stub_state.EVENTS


# ---------------------------------------------------------------- topology and links


def test_stub_t4s_of_one_host_bridge_are_apart_for_peers(t4s: NvmlStub) -> None:
    one, other = handle(0), handle(1)
    assert pynvml.nvmlDeviceGetTopologyCommonAncestor(one, other) == pynvml.NVML_TOPOLOGY_HOSTBRIDGE
    status = pynvml.nvmlDeviceGetP2PStatus(one, other, 0)
    assert status == pynvml.NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED
    assert pynvml.nvmlDeviceGetP2PStatus(one, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK) != pynvml.NVML_P2P_STATUS_OK
    assert list(pynvml.nvmlDeviceGetCpuAffinity(one, 2)) == [0b1111, 0]
    assert list(pynvml.nvmlDeviceGetMemoryAffinity(one, 1, pynvml.NVML_AFFINITY_SCOPE_NODE)) == [1]
    assert not pynvml.nvmlDeviceOnSameBoard(one, other)
    near = pynvml.nvmlDeviceGetTopologyNearestGpus(one, pynvml.NVML_TOPOLOGY_HOSTBRIDGE)
    assert [pynvml.nvmlDeviceGetIndex(found) for found in near] == [1]


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"board": "one card"}, pynvml.NVML_TOPOLOGY_INTERNAL),
        ({"pcie_path": ("bridge", "switch")}, pynvml.NVML_TOPOLOGY_SINGLE),
        ({"pcie_path": ("bridge", "switch", "another")}, pynvml.NVML_TOPOLOGY_MULTIPLE),
        ({"pcie_path": ("bridge",)}, pynvml.NVML_TOPOLOGY_HOSTBRIDGE),
        ({"pcie_path": ("elsewhere",)}, pynvml.NVML_TOPOLOGY_NODE),
        ({"pcie_path": ("elsewhere",), "numa_node": 1}, pynvml.NVML_TOPOLOGY_SYSTEM),
    ],
)
def test_the_common_ancestor_of_stub_devices_follows_from_where_they_hang(
    changes: dict[str, Any], level: int, tmp_path: Path
) -> None:
    one = dataclasses.replace(TESLA_T4_X2[0], pcie_path=("bridge", "switch"), board="one card")
    other = dataclasses.replace(TESLA_T4_X2[1], **changes)
    with opened(tmp_path, (one, other)):
        assert pynvml.nvmlDeviceGetTopologyCommonAncestor(handle(0), handle(1)) == level
        assert pynvml.nvmlDeviceGetTopologyCommonAncestor(handle(1), handle(0)) == level


def test_stub_nvlinks_lead_to_the_gpus_that_they_join(tmp_path: Path) -> None:
    with opened(tmp_path, A100_X4) as stub:
        links = [pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle(0), link).busId for link in range(12)]
        assert links == [A100_X4[other].pci_bus_id for other in (1, 2, 3) for _ in range(4)]
        kinds = {pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle(0), link) for link in range(12)}
        assert kinds == {pynvml.NVML_NVLINK_DEVICE_TYPE_GPU}
        nvlink = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
        assert pynvml.nvmlDeviceGetP2PStatus(handle(0), handle(3), nvlink) == pynvml.NVML_P2P_STATUS_OK
        assert pynvml.nvmlDeviceGetNvLinkVersion(handle(0), 0) == 5
        assert field(handle(0), pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT) == (0, 12)
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlDeviceGetNvLinkState(handle(0), 12)
        stub.devices[0].nvlink(2, transmitted_bytes=2**20, received_bytes=3 * 2**20, errors=7)
        stub.devices[0].nvlink(3, transmitted_bytes=2**21, active=False)
        sent, received = pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX
        assert field(handle(0), (sent, 2)) == (0, 1024)
        assert field(handle(0), (received, 2)) == (0, 3072)
        assert field(handle(0), (sent, ALL_LINKS)) == (0, 3072)
        assert pynvml.nvmlDeviceGetNvLinkErrorCounter(handle(0), 2, 0) == 7
        assert [pynvml.nvmlDeviceGetNvLinkState(handle(0), link) for link in (2, 3)] == [1, 0]
        assert not_supported(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle(0), 3)


def test_stub_h100s_of_two_processors_meet_in_their_nvswitches(tmp_path: Path) -> None:
    with opened(tmp_path, H100_X8):
        first, last = handle(0), handle(7)
        assert pynvml.nvmlDeviceGetTopologyCommonAncestor(first, last) == pynvml.NVML_TOPOLOGY_SYSTEM
        kind = pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(first, 17)
        assert kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
        nvlink = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
        assert pynvml.nvmlDeviceGetP2PStatus(first, last, nvlink) == pynvml.NVML_P2P_STATUS_OK
        assert list(pynvml.nvmlDeviceGetCpuAffinity(last, 2)) == [0xFFFF << 48, 0xFFFFFFFF]


# ---------------------------------------------------------------- processes, environment, compiler


def test_a_child_process_finds_the_stub_by_the_loader_and_its_calls_are_counted(tmp_path: Path) -> None:
    stub = NvmlStub(TESLA_T4_X2, tmp_path)
    stub.set_time(2)
    program = (
        "import pynvml as n; n.nvmlInit(); d = n.nvmlDeviceGetHandleByIndex(1);"
        "print(n.nvmlDeviceGetName(d), n.nvmlDeviceGetPowerUsage(d))"
    )
    child = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | stub.environ, check=True, capture_output=True, text=True
    )
    assert child.stdout.split() == ["Tesla", "T4", "10000"]
    assert stub.calls("nvmlInit") == stub.calls("nvmlDeviceGetPowerUsage") == 1
    assert stub.calls("nvmlDeviceGetHandleByIndex") == stub.calls("nvmlDeviceGetHandleByIndex_v2") == 1
    assert stub.calls() == 4


def test_a_script_reaches_a_child_that_is_already_reading_the_stub(tmp_path: Path) -> None:
    program = (
        "import pynvml as n; n.nvmlInit(); d = n.nvmlDeviceGetHandleByIndex(0)\n"
        "while input():\n"
        "    print(n.nvmlDeviceGetMemoryInfo(d).used, flush=True)"
    )
    with (
        NvmlStub(TESLA_T4_X2, tmp_path) as stub,
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        for used in (5, 7):
            stub.devices[0].memory_used(used)
            child.stdin.write("go\n")
            assert int(child.stdout.readline()) == used
        child.stdin.write("\n")


def test_nothing_of_a_stub_is_left_once_it_is_left(tmp_path: Path) -> None:
    environment, library = dict(os.environ), pynvml.nvmlLib
    found, opened_times = dict(pynvml._nvmlGetFunctionPointer_cache), pynvml._nvmlLib_refcount
    with NvmlStub(TESLA_T4_X2, tmp_path):
        pynvml.nvmlInit()
        call = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetCount_v2")
    assert dict(os.environ) == environment
    assert pynvml.nvmlLib is library
    assert found == pynvml._nvmlGetFunctionPointer_cache
    assert pynvml._nvmlLib_refcount == opened_times
    # Whoever still holds on to the stub's functions is told that it is over.
    assert call(None) == pynvml.NVML_ERROR_UNINITIALIZED


def test_stubs_one_after_the_other_are_told_apart(tmp_path: Path) -> None:
    with NvmlStub(TESLA_T4_X2, tmp_path):
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == 2
    with NvmlStub((), tmp_path):
        with pytest.raises(pynvml.NVMLError_Uninitialized):
            pynvml.nvmlDeviceGetCount()
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == 0
        pynvml.nvmlShutdown()
        with pytest.raises(pynvml.NVMLError_Uninitialized):
            pynvml.nvmlDeviceGetCount()


def test_a_stub_holds_no_more_than_its_model_has_room_for(tmp_path: Path, t4s: NvmlStub) -> None:
    with pytest.raises(InvalidValueError, match="at most 16"):
        NvmlStub(TESLA_T4_X2 * 9, tmp_path)
    with pytest.raises(InvalidValueError, match="at most 64"):
        t4s.devices[0].processes([StubProcess(pid=1)] * 65)
    with pytest.raises(InvalidValueError, match="at most 8"):
        NvmlStub((dataclasses.replace(A100_MIG[0], mig=(A100_MIG[0].mig or ()) * 3),), tmp_path)


def test_a_stub_function_takes_as_long_as_it_is_told_to_and_others_do_not_wait(t4s: NvmlStub) -> None:
    t4s.slow("nvmlDeviceGetComputeRunningProcesses", 3600)
    device = handle()
    stuck = threading.Thread(target=pynvml.nvmlDeviceGetComputeRunningProcesses, args=(device,), daemon=True)
    stuck.start()
    stuck.join(0.05)
    assert pynvml.nvmlDeviceGetPowerUsage(device) == 10_000
    assert stuck.is_alive()
    t4s.slow("nvmlDeviceGetComputeRunningProcesses", 0)
    stuck.join(10)
    assert not stuck.is_alive()


def test_without_a_compiler_the_stub_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match="apt-get install gcc"):
        nvml_stub_state.stub_library.__wrapped__()


def test_a_stub_library_of_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = nvml_stub_state.stub_library().folder / nvml_stub_state.LIBRARY
    monkeypatch.setattr(nvml_stub_state, "_LAYOUT", 0)
    with pytest.raises(IntegrityError, match="in C and 0 in Python"):
        nvml_stub_state.Library(path)
