"""What stands between a user and a GPU, in words that lead out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from llamatelemetry.gpu.device import DriverState, DriverStatus, GPUDevice
from llamatelemetry.gpu.nvml_questions import Code, Verdict, code_of, judge
from llamatelemetry.gpu.visible import VISIBLE_VARIABLE

NOTHING_HERE: Final = "no NVIDIA driver is here"
"""The message where nothing says that there should be one: nothing is wrong then."""

_LIBRARY: Final = "libnvidia-ml.so.1"
_LIBRARY_FOLDERS: Final = ("usr/local/nvidia/lib64", "usr/lib/wsl/lib")
"""Where Kaggle and other Kubernetes nodes, and WSL, put the driver's libraries, off the linker's path."""
_KERNEL_VERSION: Final = re.compile(r"Kernel Module[^\n]*?\s(\d+\.\d+(?:\.\d+)?)\s")
_RELOAD: Final = "sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && sudo modprobe nvidia"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What can be seen of a GPU without NVML.

    Attributes:
        container: This is a container.
        kaggle: This is a Kaggle notebook.
        device_files: The kernel module's device files are here.
        kernel_driver: Version of the loaded kernel module.
        library_folder: A folder that holds NVML and that the linker may not search.
    """

    container: bool = False
    kaggle: bool = False
    device_files: bool = False
    kernel_driver: str | None = None
    library_folder: str | None = None

    @property
    def gpu_meant(self) -> bool:
        """Something says that there is, or should be, an NVIDIA GPU."""
        return self.device_files or self.kernel_driver is not None or self.library_folder is not None


def look_around(environ: Mapping[str, str], root: Path = Path("/")) -> Surroundings:
    """Looks at files and variables; asks no driver."""
    folders = (root / folder for folder in _LIBRARY_FOLDERS)
    library = next((folder for folder in folders if (folder / _LIBRARY).exists()), None)
    return Surroundings(
        container=any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv"))
        or "KUBERNETES_SERVICE_HOST" in environ,
        kaggle="KAGGLE_KERNEL_RUN_TYPE" in environ,
        device_files=(root / "dev/nvidiactl").exists(),
        kernel_driver=_kernel_driver(root / "proc/driver/nvidia/version"),
        library_folder=None if library is None else f"/{library.relative_to(root)}",
    )


def explain(error: Exception, around: Surroundings) -> DriverStatus:
    """What it means that NVML could not be opened, or that its devices could not be listed.

    Args:
        error: What the binding raised.
        around: Where it was raised.
    """
    code = code_of(error)
    if code is not None and judge(error) is Verdict.LOST and code != Code.DRIVER_NOT_LOADED:
        return lost()
    match code:
        case Code.LIBRARY_NOT_FOUND:
            status = _no_library(around)
        case Code.DRIVER_NOT_LOADED:
            status = DriverStatus(
                state=DriverState.NO_DRIVER,
                message="the driver's libraries are here, and its kernel module is not loaded",
                fix=_give_gpu(around, "sudo modprobe nvidia, or reboot after installing the driver"),
            )
        case Code.LIB_RM_VERSION_MISMATCH:
            status = _mismatch(around)
        case Code.NO_PERMISSION | Code.OPERATING_SYSTEM:
            status = DriverStatus(
                state=DriverState.NO_PERMISSION,
                message=f"this user may not use the NVIDIA driver ({error})",
                fix="give this user access to /dev/nvidiactl and /dev/nvidia*: ls -l /dev/nvidia*",
            )
        case None:
            status = DriverStatus(
                state=DriverState.FAILED,
                message=f"nvidia-ml-py does not work: {type(error).__name__}: {error}",
                fix="pip install --force-reinstall nvidia-ml-py",
            )
        case _:
            status = DriverStatus(
                state=DriverState.FAILED,
                message=f"NVML failed: {error}",
                fix="see whether nvidia-smi says the same",
            )
    return replace(status, driver_version=around.kernel_driver)


def ready(devices: Sequence[GPUDevice], *, silent: int = 0) -> DriverStatus:
    """These devices can be read.

    Args:
        devices: They.
        silent: GPUs that are there and do not answer.
    """
    instances = sum(device.parent_uuid is not None for device in devices)
    counts = ((len(devices) - instances, "GPU"), (instances, "MIG instance"))
    parts = [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count]
    message = f"{' and '.join(parts)} can be read"
    if not silent:
        return DriverStatus(state=DriverState.READY, message=message)
    message += f", and {silent} GPU{'' if silent == 1 else 's'} there not"
    return DriverStatus(state=DriverState.READY, message=message, fix=lost().fix)


def no_device(around: Surroundings) -> DriverStatus:
    """The driver runs and shows no device."""
    return DriverStatus(
        state=DriverState.NO_DEVICE,
        message="the NVIDIA driver runs and shows no GPU",
        fix=_give_gpu(around, "see whether nvidia-smi -L lists one, and dmesg | grep -i nvrm why not"),
    )


def all_hidden(devices: int, value: str) -> DriverStatus:
    """There are devices, and ``CUDA_VISIBLE_DEVICES`` leaves none."""
    return DriverStatus(
        state=DriverState.NO_DEVICE,
        message=f"{VISIBLE_VARIABLE}={value!r} hides every GPU ({devices} there)",
        fix=f"unset {VISIBLE_VARIABLE}, or name GPUs as nvidia-smi -L lists them",
        hidden=devices,
    )


def lost() -> DriverStatus:
    """Every device stopped to answer."""
    return DriverStatus(
        state=DriverState.LOST,
        message="the GPU does not answer any more",
        fix="dmesg | grep -i xid says why; end what uses it and sudo nvidia-smi --gpu-reset, or reboot",
    )


def _no_library(around: Surroundings) -> DriverStatus:
    if around.library_folder is not None:
        return DriverStatus(
            state=DriverState.NO_DRIVER,
            message=f"{_LIBRARY} is in {around.library_folder}, where the linker does not look",
            fix=f"export LD_LIBRARY_PATH={around.library_folder} before Python is started",
        )
    if around.gpu_meant:
        return DriverStatus(
            state=DriverState.NO_DRIVER,
            message=f"an NVIDIA kernel module is here, and {_LIBRARY} is not",
            fix=_give_gpu(around, "install the driver's libraries in the kernel module's version"),
        )
    return DriverStatus(
        state=DriverState.NO_DRIVER,
        message=NOTHING_HERE,
        fix=_give_gpu(around, "install its driver"),
    )


def _mismatch(around: Surroundings) -> DriverStatus:
    loaded = f" (kernel module {around.kernel_driver})" if around.kernel_driver else ""
    restart = "reboot the host, then start this container anew" if around.container else f"reboot, or {_RELOAD}"
    return DriverStatus(
        state=DriverState.VERSION_MISMATCH,
        message=f"the driver's libraries and its loaded kernel module{loaded} are of different versions, "
        "as after an upgrade",
        fix=restart,
    )


def _give_gpu(around: Surroundings, otherwise: str) -> str:
    if around.kaggle:
        return "choose a GPU in the notebook's settings, under Accelerator"
    if around.container:
        return "start the container with its GPUs: docker run --gpus all, or nvidia.com/gpu in the pod's limits"
    return otherwise


def _kernel_driver(path: Path) -> str | None:
    try:
        found = _KERNEL_VERSION.search(path.read_text())
    except (OSError, UnicodeDecodeError):
        return None
    return found[1] if found else None
