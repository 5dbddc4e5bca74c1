"""``llamatelemetry gpu`` as it is typed, on stub drivers: real processes, NVIDIA's binding, and no real GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from llamatelemetry.testing.nvml_stub import (
    A100_MIG,
    H100,
    LAPTOP,
    TESLA_T4_X2,
    NvmlStub,
    StubDevice,
    StubProcess,
)

GIB = 2**30
DASH = "\N{EN DASH}"
T4_X2 = tuple(
    replace(device, uuid=f"GPU-{start}-0000-4000-8000-000000000000", counter_phase_s=0)
    for device, start in zip(TESLA_T4_X2, ("7e0a5700", "3b1c90de"), strict=True)
)
"""UUIDs that differ from the beginning, as real ones do."""
A100 = (
    replace(
        A100_MIG[0],
        mig=tuple(
            replace(instance, uuid=instance.uuid.replace("a1005440", f"a100544{number}"))
            for number, instance in enumerate(A100_MIG[0].mig or (), start=1)
        ),
    ),
)
SW_POWER_CAP = 0x4
GPU_IS_LOST = 15

Stub = Callable[[Sequence[StubDevice]], NvmlStub]


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    """Makes a stub whose clock stands at ten seconds."""

    def make(devices: Sequence[StubDevice]) -> NvmlStub:
        made = NvmlStub(devices, tmp_path)
        made.set_time(10)
        return made

    return make


def shown(shelf: Any, stub: NvmlStub, *arguments: str, **environ: str) -> list[str]:
    done = shelf.llamatelemetry("gpu", *arguments, env={**stub.environ, "COLUMNS": "80", **environ})
    assert (done.returncode, done.stderr) == (0, "")
    return [line.rstrip() for line in done.stdout.splitlines()]


def told(shelf: Any, stub: NvmlStub, *arguments: str, **environ: str) -> dict[str, Any]:
    done = shelf.llamatelemetry("gpu", "--json", *arguments, env={**stub.environ, **environ})
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def text(block: str) -> list[str]:
    """Lines that are expected; @ stands for the dash."""
    return dedent(block).strip("\n").replace("@", DASH).splitlines()


def test_two_stub_t4_are_a_table_with_bars(shelf: Any, stub: Stub) -> None:
    machine = stub(T4_X2)
    first = machine.devices[0]
    first.power_w(67.6)
    first.memory_used(12 * GIB)
    first.utilization(93, 40)
    first.temperature(83)
    first.clocks(1590, 5001)
    first.throttle(SW_POWER_CAP)
    machine.set_time(110)
    assert shown(shelf, machine) == text(
        """
        driver 550.54.15, CUDA up to 12.4
           GPU           memory         util           power          temp, energy
           UUID                                                       SM/mem clock
        0  Tesla T4      12.0/15.0 GiB  93 %           68/70 W        83 °C 6.86 kJ
           GPU-7e0a5700  ━━━━━━━━━━╸──  ━━━━━━━━━━━━─  ━━━━━━━━━━━━╸  1590/5001 MHz
                                                                      sw_power_cap
        1  Tesla T4      0.0/15.0 GiB   0 %            10/70 W        39 °C 1.10 kJ
           GPU-3b1c90de  ─────────────  ─────────────  ━━───────────  300/405 MHz
        energy: since the driver was loaded
        """
    )


def test_stub_mig_instances_stand_under_their_gpu_and_each_reason_stands_once(shelf: Any, stub: Stub) -> None:
    machine = stub(A100)
    machine.devices[0].mig_memory_used(1, 3 * GIB)
    assert shown(shelf, machine, COLUMNS="100") == text(
        """
        driver 550.54.15, CUDA up to 12.4
           GPU                    memory           util  power            temp, energy
           UUID                                                           SM/mem clock
        0  NVIDIA A100-SXM4-40GB  0.0/40.0 GiB     @¹    50/400 W         32 °C 500 J
           GPU-a1005440           ───────────────        ━━─────────────  210/1215 MHz
             MIG 3g.20gb          0.0/19.5 GiB     @²    @³               @⁴ @³
             MIG-a1005441         ───────────────                         @⁵ @⁶
             MIG 2g.10gb          3.0/9.6 GiB      @²    @³               @⁴ @³
             MIG-a1005442         ━━━━╸──────────                         @⁵ @⁶
             MIG 1g.5gb           0.0/4.8 GiB      @²    @³               @⁴ @³
             MIG-a1005443         ───────────────                         @⁵ @⁶
        energy: since the driver was loaded
        ¹ utilization: nvmlDeviceGetUtilizationRates is not supported on a GPU split into MIG instances
        ² utilization: nvmlDeviceGetUtilizationRates is not supported on a MIG instance
        ³ power, energy: what a MIG instance draws is measured on its whole GPU only
        ⁴ temperature: nvmlDeviceGetTemperatureV is not supported on a MIG instance
        ⁵ clocks: nvmlDeviceGetClockInfo is not supported on a MIG instance
        ⁶ throttling: nvmlDeviceGetCurrentClocksThrottleReasons is not supported on a MIG instance
        """
    )


def test_what_a_stub_laptop_does_not_tell_is_a_dash_with_its_reason(shelf: Any, stub: Stub) -> None:
    assert shown(shelf, stub(LAPTOP)) == text(
        """
        driver 550.54.15, CUDA up to 12.4
           GPU                      memory       util       power   temp, energy
           UUID                                                     SM/mem clock
        0  NVIDIA GeForce GTX 1060  0.3/6.0 GiB  0 %        8/@¹ W  47 °C @²
           GPU-1a970b00             ╸────────    ─────────          139/405 MHz
        energy: since the driver was loaded
        ¹ power limit: the driver does not tell it
        ² energy: nvmlDeviceGetTotalEnergyConsumption is not supported on this device
        """
    )


def test_processes_of_a_stub_gpu_are_listed_when_asked_for(shelf: Any, stub: Stub) -> None:
    machine = stub(T4_X2)
    machine.devices[0].processes([StubProcess(pid=4711, memory_bytes=GIB, utilization=30), StubProcess(pid=4712)])
    assert "pid" not in "".join(shown(shelf, machine))
    lines = shown(shelf, machine, "--processes")
    assert [line.split() for line in lines if "pid" in line or "no process" in line] == [
        ["pid", "4711", "1.0", "GiB", "30", "%"],
        ["pid", "4712", f"{DASH}¹", "0", "%"],
        ["no", "process"],
    ]
    assert lines[-1] == "¹ memory of processes: the driver does not tell it, as in some containers"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("devices", [T4_X2, A100, LAPTOP, H100])
def test_sixty_columns_are_enough_for_stub_gpus(
    shelf: Any, stub: Stub, devices: Sequence[StubDevice], encoding: str
) -> None:
    lines = shown(shelf, stub(devices), "-p", COLUMNS="60", PYTHONIOENCODING=encoding)
    assert max(map(len, lines)) <= 60
    assert "\x1b" not in "".join(lines)


def test_json_has_every_figure_of_a_stub_gpu_with_its_unit(shelf: Any, stub: Stub) -> None:
    machine = stub(T4_X2)
    machine.devices[1].processes([StubProcess(pid=4711, memory_bytes=GIB, utilization=30)])
    answer = told(shelf, machine)
    assert answer["driver"] == {
        "state": "ready",
        "message": "2 GPUs can be read",
        "version": "550.54.15",
        "cuda": "12.4",
        "hidden": 0,
    }
    assert [gpu["index"] for gpu in answer["gpus"]] == [0, 1]
    gpu = answer["gpus"][1]
    assert gpu.pop("age_s") >= 0
    nvlink = "nvmlDeviceGetFieldValues(NVLINK_COUNT) is not supported on this device"
    assert gpu == {
        "index": 1,
        "uuid": "GPU-3b1c90de-0000-4000-8000-000000000000",
        "parent_uuid": None,
        "name": "Tesla T4",
        "pci_bus_id": "00000000:00:05.0",
        "compute_capability": "7.5",
        "state": "ok",
        "lost": False,
        "memory_total_bytes": 15 * GIB,
        "memory_reserved_bytes": 0,
        "power_limit_w": 70.0,
        "mig_enabled": None,
        "energy_j": None,
        "memory_used_bytes": 0,
        "utilization": 0.0,
        "memory_controller_utilization": 0.0,
        "power_w": 10.0,
        "energy_mj": 100_000,
        "temperature_c": 39.0,
        "sm_clock_mhz": 300,
        "memory_clock_mhz": 405,
        "throttle_reasons": [],
        "ecc_corrected": 0,
        "ecc_uncorrected": 0,
        "xid_errors": None,
        "processes": [{"pid": 4711, "memory_bytes": GIB, "utilization": 0.3}],
        "pcie_transmitted_bytes_per_s": 0,
        "pcie_received_bytes_per_s": 0,
        "nvlink_transmitted_bytes": None,
        "nvlink_received_bytes": None,
        "absent": {
            "mig_enabled": "it cannot be split into MIG instances",
            "energy_j": "counted from when watching begins: --watch",
            "xid_errors": "counted from when watching begins: --watch",
            "nvlink_transmitted_bytes": nvlink,
            "nvlink_received_bytes": nvlink,
        },
    }


@pytest.mark.parametrize("devices", [T4_X2, A100, LAPTOP, H100])
def test_json_gives_a_reason_for_whatever_a_stub_gpu_does_not_tell(
    shelf: Any, stub: Stub, devices: Sequence[StubDevice]
) -> None:
    machine = stub(devices)
    machine.devices[0].processes([StubProcess(pid=1)])
    facts = {"parent_uuid"}
    for gpu in told(shelf, machine)["gpus"]:
        missing = {name for name, value in gpu.items() if value is None} - facts
        assert missing == {name for name in gpu["absent"] if name != "processes.utilization"}
        assert all(gpu["absent"].values())


def test_only_the_stub_gpus_that_cuda_shows_are_shown_and_the_others_are_counted(shelf: Any, stub: Stub) -> None:
    machine = stub(T4_X2)
    lines = shown(shelf, machine, CUDA_VISIBLE_DEVICES="GPU-3b1c90de")
    assert lines[0] == "driver 550.54.15, CUDA up to 12.4, CUDA_VISIBLE_DEVICES hides 1 more"
    assert [line.split()[0] for line in lines if "Tesla" in line] == ["1"]
    assert told(shelf, machine, CUDA_VISIBLE_DEVICES="1")["driver"]["hidden"] == 1


def test_a_stub_mig_instance_without_its_gpu_stands_for_itself(shelf: Any, stub: Stub) -> None:
    lines = shown(shelf, stub(A100), CUDA_VISIBLE_DEVICES="MIG-a1005442")
    assert lines[3].startswith("0  NVIDIA A100-SXM4-40GB MIG 2g.10gb ")


def test_stub_uuids_that_begin_alike_are_shown_whole(shelf: Any, stub: Stub) -> None:
    lines = shown(shelf, stub(TESLA_T4_X2), COLUMNS="120")
    assert [device.uuid in "\n".join(lines) for device in TESLA_T4_X2] == [True, True]


@pytest.mark.parametrize(
    ("code", "state_said", "fix_said"),
    [
        (12, "no NVIDIA driver is here", ""),
        (9, "its kernel module is not loaded", ""),
        (18, "are of different versions", "reboot"),
        (4, "this user may not use the NVIDIA driver", "/dev/nvidia"),
        (999, "NVML failed", "nvidia-smi"),
    ],
)
def test_a_stub_driver_that_fails_is_one_line_with_a_way_out_and_exit_code_1(
    shelf: Any, stub: Stub, code: int, state_said: str, fix_said: str
) -> None:
    machine = stub(T4_X2)
    machine.fail("nvmlInit", code)
    for arguments in ((), ("--watch",), ("--watch", "--json")):
        done = shelf.llamatelemetry("gpu", *arguments, env=dict(machine.environ))
        said = json.loads(done.stdout)["error"]["message"] if "--json" in arguments else done.stderr
        assert done.returncode == 1
        assert state_said in said
        assert fix_said in said
        assert "Traceback" not in done.stderr
    done = shelf.llamatelemetry("gpu", "--json", env=dict(machine.environ))
    assert json.loads(done.stdout)["error"]["type"] == "GPUUnavailableError"


def test_a_lost_stub_gpu_is_shown_as_lost_beside_the_other(shelf: Any, stub: Stub) -> None:
    machine = stub(T4_X2)
    machine.devices[1].fail("nvmlDeviceGetPowerUsage", GPU_IS_LOST)
    rows = [line for line in shown(shelf, machine) if "Tesla" in line]
    assert [("lost" in row, row[0]) for row in rows] == [(False, "0"), (True, "1")]
    (gone,) = [gpu for gpu in told(shelf, machine)["gpus"] if gpu["lost"]]
    assert (gone["state"], gone["power_w"], gone["memory_total_bytes"]) == ("failed", None, 15 * GIB)
    assert gone["absent"]["power_w"].startswith("it does not answer")


def test_an_interval_without_watching_is_wrong_usage(shelf: Any) -> None:
    done = shelf.llamatelemetry("gpu", "--interval", "2")
    assert done.returncode == 2
    assert "give --watch too" in done.stderr


def test_help_teaches_by_examples(shelf: Any) -> None:
    said = shelf.llamatelemetry("gpu", "--help").stdout
    assert "\n    llamatelemetry gpu --watch --json | jq -c '[.time, .gpus[].utilization]'\n" in said
    assert "Exit code 1 where no GPU can be read" in said
