"""What doctor says of the GPUs of stub machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from llamatelemetry.gpu import checks as gpu_checks
from llamatelemetry.gpu.checks import checks
from llamatelemetry.gpu.device import DriverState, DriverStatus
from llamatelemetry.gpu.nvml_driver import NOTHING_HERE
from llamatelemetry.plugins import Check, CheckState
from llamatelemetry.testing.nvml_stub import A100_MIG, LAPTOP, TESLA_T4_X2, NvmlStub


def by_name(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_each_gpu_of_the_stub_is_described_with_what_it_does_not_tell(t4x2: NvmlStub) -> None:
    found = checks({})
    assert [(check.name, check.state) for check in found] == [
        (name, CheckState.OK) for name in ("driver", "GPU 0", "GPU 0 figures", "GPU 1", "GPU 1 figures")
    ]
    said = by_name(found)
    assert said["driver"].detail == "2 GPUs can be read; driver 550.54.15, CUDA up to 12.4"
    assert said["GPU 0"].detail == f"Tesla T4, 15.0 GiB, compute 7.5, 00000000:00:04.0, {TESLA_T4_X2[0].uuid}"
    assert said["GPU 0 figures"].detail == (
        "not told: nvlink_transmitted_bytes, nvlink_received_bytes "
        "(nvmlDeviceGetFieldValues(NVLINK_COUNT) is not supported on this device)"
    )


def test_a_gpu_of_the_stub_that_does_not_answer_is_a_warning_beside_the_other(t4x2: NvmlStub) -> None:
    t4x2.devices[0].lose()
    driver = checks({})[0]
    assert driver.state is CheckState.WARNING
    assert driver.detail.startswith("1 GPU can be read, and 1 GPU there not")


def test_a_gpu_of_the_stub_that_tells_everything_is_said_to(h100x8: NvmlStub) -> None:
    assert by_name(checks({}))["GPU 7 figures"].detail == "all are told"


def test_mig_instances_of_the_stub_are_told_from_their_gpu(a100_mig: NvmlStub) -> None:
    found = checks({})
    assert "split into MIG instances" in found[1].detail
    instances = [check.detail for check in found if check.name == "GPU 0 instance"]
    assert len(instances) == 3
    assert instances[0].endswith((A100_MIG[0].mig or ())[0].uuid)


def test_hidden_gpus_of_the_stub_are_counted(t4x2: NvmlStub) -> None:
    said = by_name(checks({"CUDA_VISIBLE_DEVICES": "1"}))
    assert said["driver"].detail.endswith("CUDA_VISIBLE_DEVICES hides 1 more")
    assert "GPU 0" not in said
    assert "CUDA_VISIBLE_DEVICES" not in said


def test_hiding_all_gpus_of_the_stub_is_a_warning_with_a_way_out(t4x2: NvmlStub) -> None:
    (check,) = checks({"CUDA_VISIBLE_DEVICES": ""})
    assert check.state is CheckState.WARNING
    assert check.fix.startswith("unset CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("environ", "warned"),
    [
        ({}, False),
        ({"CUDA_VISIBLE_DEVICES": "0"}, True),
        ({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, True),
        ({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, False),
        ({"CUDA_VISIBLE_DEVICES": LAPTOP[0].uuid}, False),
    ],
)
def test_counting_gpus_of_different_kinds_on_the_stub_is_a_warning(
    tmp_path: Path,
    environ: dict[str, str],
    warned: bool,  # noqa: FBT001 - a case of a table.
) -> None:
    with NvmlStub((TESLA_T4_X2[0], LAPTOP[0]), tmp_path):
        said = by_name(checks(environ))
    assert ("CUDA_VISIBLE_DEVICES" in said) is warned
    if warned:
        assert said["CUDA_VISIBLE_DEVICES"].fix.startswith("export CUDA_DEVICE_ORDER=PCI_BUS_ID")


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, CheckState.WARNING),
        (pynvml.NVML_ERROR_NO_PERMISSION, CheckState.ERROR),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, CheckState.ERROR),
        (pynvml.NVML_ERROR_GPU_IS_LOST, CheckState.ERROR),
        (pynvml.NVML_ERROR_UNKNOWN, CheckState.ERROR),
    ],
)
def test_a_stub_driver_that_does_not_work_is_said_with_a_fix(t4x2: NvmlStub, code: int, state: CheckState) -> None:
    t4x2.fail("nvmlInitWithFlags", code)
    (check,) = checks({})
    assert (check.name, check.state) == ("driver", state)
    assert check.detail
    assert check.fix


def test_a_gpu_of_the_stub_that_is_lost_is_an_error_and_the_other_is_fine(t4x2: NvmlStub) -> None:
    t4x2.devices[0].fail("nvmlDeviceGetTotalEnergyConsumption", pynvml.NVML_ERROR_GPU_IS_LOST)
    said = by_name(checks({}))
    assert said["GPU 0"].state is CheckState.ERROR
    assert "gpu-reset" in said["GPU 0"].fix
    assert said["GPU 1"].state is CheckState.OK


def test_a_machine_without_a_gpu_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = DriverStatus(state=DriverState.NO_DRIVER, message=NOTHING_HERE, fix="install its driver")
    monkeypatch.setattr(gpu_checks.Nvml, "open", lambda _: nothing)
    assert checks({}) == [
        Check(name="driver", state=CheckState.OK, detail="no NVIDIA driver is here; for a GPU: install its driver")
    ]
    missed = replace(nothing, message="libnvidia-ml.so.1 is in /usr/lib/wsl/lib, where the linker does not look")
    monkeypatch.setattr(gpu_checks.Nvml, "open", lambda _: missed)
    (check,) = checks({})
    assert (check.state, check.fix) == (CheckState.WARNING, "install its driver")
