"""What is said where NVML cannot be opened, judged by files and variables alone."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from llamatelemetry.gpu.device import DriverState, DriverStatus
from llamatelemetry.gpu.nvml_driver import NOTHING_HERE, Surroundings, explain, look_around, no_device

KERNEL = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n"
OPEN_KERNEL = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.51.02  Release Build  (x@y)\n"
KAGGLE = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}


def plant(root: Path, *paths: str, text: str = "") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def said(code: int, around: Surroundings) -> DriverStatus:
    return explain(pynvml.NVMLError(code), around)


def test_an_empty_machine_says_nothing_of_a_gpu(tmp_path: Path) -> None:
    assert look_around({}, tmp_path) == Surroundings()
    assert not look_around({}, tmp_path).gpu_meant


def test_without_a_driver_nothing_is_wrong_and_a_gpu_would_need_one(tmp_path: Path) -> None:
    status = said(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, look_around({}, tmp_path))
    assert (status.state, status.message, status.fix) == (DriverState.NO_DRIVER, NOTHING_HERE, "install its driver")


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_a_container_without_a_gpu_has_to_be_given_one(tmp_path: Path, mark: str) -> None:
    plant(tmp_path, mark)
    around = look_around({}, tmp_path)
    for code in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
        status = said(code, around)
        assert status.state is DriverState.NO_DRIVER
        assert "docker run --gpus all" in status.fix
    assert "docker run --gpus all" in no_device(around).fix
    assert look_around({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path / "other").container


@pytest.mark.parametrize("folder", ["usr/local/nvidia/lib64", "usr/lib/wsl/lib"])
def test_a_library_off_the_linkers_path_is_found_and_the_path_named(tmp_path: Path, folder: str) -> None:
    plant(tmp_path, f"{folder}/libnvidia-ml.so.1")
    around = look_around({}, tmp_path)
    status = said(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, around)
    assert around.gpu_meant
    assert f"is in /{folder}" in status.message
    assert status.fix.startswith(f"export LD_LIBRARY_PATH=/{folder} ")


def test_a_kaggle_notebook_with_the_accelerator_off_is_told_where_to_switch_it_on(tmp_path: Path) -> None:
    plant(tmp_path, "usr/local/nvidia/lib64/libnvidia-ml.so.1", ".dockerenv")
    around = look_around(KAGGLE, tmp_path)
    for status in (said(pynvml.NVML_ERROR_DRIVER_NOT_LOADED, around), no_device(around)):
        assert status.fix == "choose a GPU in the notebook's settings, under Accelerator"


@pytest.mark.parametrize(("text", "version"), [(KERNEL, "550.54.15"), (OPEN_KERNEL, "575.51.02"), ("?", None)])
def test_the_kernel_module_tells_its_version_without_nvml(tmp_path: Path, text: str, version: str | None) -> None:
    plant(tmp_path, "proc/driver/nvidia/version", text=text)
    assert look_around({}, tmp_path).kernel_driver == version


def test_a_kernel_module_without_libraries_needs_them_in_its_version(tmp_path: Path) -> None:
    plant(tmp_path, "proc/driver/nvidia/version", text=KERNEL)
    plant(tmp_path, "dev/nvidiactl")
    status = said(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, look_around({}, tmp_path))
    assert status.state is DriverState.NO_DRIVER
    assert "kernel module is here" in status.message
    assert status.driver_version == "550.54.15"


def test_libraries_and_kernel_module_of_different_versions_need_a_reboot(tmp_path: Path) -> None:
    plant(tmp_path, "proc/driver/nvidia/version", text=KERNEL)
    status = said(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, look_around({}, tmp_path))
    assert status.state is DriverState.VERSION_MISMATCH
    assert "550.54.15" in status.message
    assert status.fix.startswith("reboot, or sudo rmmod")
    plant(tmp_path, ".dockerenv")
    status = said(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, look_around({}, tmp_path))
    assert status.fix == "reboot the host, then start this container anew"


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_OPERATING_SYSTEM])
def test_a_user_who_may_not_is_told_which_files(code: int) -> None:
    status = said(code, Surroundings())
    assert status.state is DriverState.NO_PERMISSION
    assert "/dev/nvidiactl" in status.fix


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED])
def test_a_gpu_that_fell_off_the_bus_is_lost(code: int) -> None:
    assert said(code, Surroundings()).state is DriverState.LOST


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_MEMORY, 4711])
def test_what_nobody_knows_is_passed_on_as_nvml_says_it(code: int) -> None:
    status = said(code, Surroundings())
    assert status.state is DriverState.FAILED
    assert status.message.startswith("NVML failed: ")
    assert status.fix


def test_a_binding_that_is_broken_is_named_with_its_error() -> None:
    status = explain(ImportError("no module named pynvml"), Surroundings())
    assert status.state is DriverState.FAILED
    assert status.message == "nvidia-ml-py does not work: ImportError: no module named pynvml"
    assert "nvidia-ml-py" in status.fix


@pytest.mark.parametrize("code", range(1, 31))
def test_every_error_of_nvml_becomes_a_state_with_a_way_out(code: int) -> None:
    status = said(code, Surroundings())
    assert status.state is not DriverState.READY
    assert status.message
    assert status.fix
