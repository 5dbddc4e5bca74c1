"""What ``llamatelemetry doctor`` says of GPUs: the driver, what it shows, what it does not tell and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from llamatelemetry.gpu.device import DriverState, DriverStatus, GPUDevice
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.gpu.nvml_driver import NOTHING_HERE
from llamatelemetry.gpu.visible import ORDER_VARIABLE, VISIBLE_VARIABLE, names_by_index
from llamatelemetry.plugins import Check, CheckState

_DEGREES: Final = {
    DriverState.READY: CheckState.OK,
    DriverState.NO_DRIVER: CheckState.WARNING,
    DriverState.NO_DEVICE: CheckState.WARNING,
    DriverState.NO_PERMISSION: CheckState.ERROR,
    DriverState.VERSION_MISMATCH: CheckState.ERROR,
    DriverState.LOST: CheckState.ERROR,
    DriverState.FAILED: CheckState.ERROR,
}
"""A GPU that is not meant to be used is no error: everything else works without one."""


def checks(environ: Mapping[str, str] | None = None) -> list[Check]:
    """Opens NVML, takes each reading once, and lets go of it.

    Args:
        environ: The environment to judge; ``os.environ`` if None.
    """
    environ = os.environ if environ is None else environ
    nvml = Nvml(environ)
    try:
        found = [_driver(nvml.open())]
        for device in nvml.devices:
            found += _device(nvml, device)
    finally:
        nvml.close()
    return [*found, *_order(environ)]


def _driver(status: DriverStatus) -> Check:
    name = "driver"
    if status.message == NOTHING_HERE:
        return Check(name=name, state=CheckState.OK, detail=f"{status.message}; for a GPU: {status.fix}")
    detail = status.message
    if status.driver_version:
        detail += f"; driver {status.driver_version}"
    if status.cuda_version:
        detail += f", CUDA up to {status.cuda_version}"
    if status.hidden and status.state is DriverState.READY:
        detail += f"; {VISIBLE_VARIABLE} hides {status.hidden} more"
    # One that can be read may have others beside it that cannot.
    state = CheckState.WARNING if status.state is DriverState.READY and status.fix else _DEGREES[status.state]
    return Check(name=name, state=state, detail=detail, fix=status.fix)


def _device(nvml: Nvml, device: GPUDevice) -> list[Check]:
    name = f"GPU {device.index}" + (" instance" if device.parent_uuid else "")
    nvml.fast(device)
    nvml.slow(device)
    nvml.rare(device)
    if nvml.is_lost(device):
        return [
            Check(
                name=name,
                state=CheckState.ERROR,
                detail=f"{device.name}, {device.uuid}: it does not answer any more",
                fix="dmesg | grep -i xid says why; end what uses it and sudo nvidia-smi --gpu-reset, or reboot",
            )
        ]
    figures = _figures(nvml.absences(device))
    return [
        Check(name=name, state=CheckState.OK, detail=_described(device)),
        Check(name=f"{name} figures", state=CheckState.OK, detail=figures),
    ]


def _described(device: GPUDevice) -> str:
    parts = [device.name]
    if device.memory_total_bytes is not None:
        parts.append(f"{device.memory_total_bytes / 2**30:.1f} GiB")
    if device.compute_capability is not None:
        parts.append("compute {}.{}".format(*device.compute_capability))
    if device.mig_enabled:
        parts.append("split into MIG instances")
    return ", ".join([*parts, device.pci_bus_id or "no PCI address", device.uuid])


def _figures(absences: Mapping[str, str]) -> str:
    if not absences:
        return "all are told"
    by_reason: dict[str, list[str]] = {}
    for figure, reason in absences.items():
        by_reason.setdefault(reason, []).append(figure)
    return "not told: " + "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())


def _order(environ: Mapping[str, str]) -> list[Check]:
    """Indices mean one thing to NVML and may mean another to CUDA where GPUs differ."""
    if not names_by_index(environ.get(VISIBLE_VARIABLE)) or environ.get(ORDER_VARIABLE) == "PCI_BUS_ID":
        return []
    everything = Nvml({name: value for name, value in environ.items() if name != VISIBLE_VARIABLE})
    everything.open()
    kinds = {device.name for device in everything.devices if device.parent_uuid is None}
    everything.close()
    if len(kinds) < 2:
        return []
    return [
        Check(
            name=VISIBLE_VARIABLE,
            state=CheckState.WARNING,
            detail=f"counts GPUs of {len(kinds)} kinds, fastest first for CUDA and by address here, "
            "so other GPUs may be measured than used",
            fix=f"export {ORDER_VARIABLE}=PCI_BUS_ID, or name GPUs by UUID",
        )
    ]
