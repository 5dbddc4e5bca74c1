"""Reads GPUs through NVML, NVIDIA's management library, by its Python binding nvidia-ml-py.

What is read here goes into people's spans, on machines nobody here has seen. So nothing raises: a
machine without a driver has a status that says so, and a figure that a device does not tell is None,
with the reason kept.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from llamatelemetry.gpu.device import (
    DriverState,
    DriverStatus,
    FastReading,
    GPUDevice,
    RareReading,
    SlowReading,
)
from llamatelemetry.gpu.nvml_devices import FoundDevice, FoundGPU, Versions, driver_versions, find_gpus
from llamatelemetry.gpu.nvml_driver import all_hidden, explain, look_around, lost, no_device, ready
from llamatelemetry.gpu.nvml_figures import DeviceFigures
from llamatelemetry.gpu.nvml_questions import DeviceLostError
from llamatelemetry.gpu.visible import VISIBLE_VARIABLE, visible_uuids

_Reading = TypeVar("_Reading", SlowReading, RareReading)

_CLOSED: Final = DriverStatus(state=DriverState.FAILED, message="NVML is not open", fix="call open()")
_NO_SLOW, _NO_RARE = SlowReading(), RareReading()


class Nvml:
    """Reads the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves to this process, and their MIG instances.

    One thread at a time may use it. ``open()`` takes as long as the driver does, from milliseconds to
    seconds where no other process keeps the GPU initialised.

    Args:
        environ: The environment; ``os.environ``, as it is at each ``open()``, if None.

    Attributes:
        status: What became of the latest ``open()``; ``lost`` once no device is left that answers.
        devices: Devices that can be read, in the order of ``CUDA_VISIBLE_DEVICES``, each GPU followed by
            its MIG instances. One that was lost stays, also when it is not found again on reopening.
            Empty unless the status is ``ready`` or ``lost``.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.status: DriverStatus = _CLOSED
        self.devices: tuple[GPUDevice, ...] = ()
        self._environ = os.environ if environ is None else environ
        self._binding: Any = None
        self._owner = 0
        self._figures: dict[str, DeviceFigures] = {}
        self._fast: dict[str, Callable[[], FastReading]] = {}  # Of devices that answer.
        self._lost: set[str] = set()
        self._xids: dict[str, int] = {}

    def open(self) -> DriverStatus:
        """Loads NVML and finds the devices; anew if it was open, which brings back a GPU that was lost.

        Figures that were refused are asked for again from here on. Xid counts go on.
        """
        known = self.devices
        self._shut()
        try:
            binding = importlib.import_module("pynvml")
            binding.nvmlInit()
            self._binding, self._owner = binding, os.getpid()
            return self._adopt(find_gpus(binding), known, driver_versions(binding))
        except Exception as error:  # noqa: BLE001 - telemetry never raises; whatever it is becomes the status.
            self._shut()
            self.devices, self._lost = (), set()
            self.status = explain(error, look_around(self._environ))
            return self.status

    def close(self) -> None:
        """Lets go of NVML and of all devices; Xid counts are kept for the next ``open()``."""
        self._shut()
        self.devices, self._lost = (), set()
        self.status = _CLOSED

    def fast(self, device: GPUDevice) -> FastReading | None:
        """Memory, utilization, power and energy: four calls. None for a device that is lost, or not known."""
        read = self._fast.get(device.uuid)
        if read is None:
            return None
        try:
            return read()
        except DeviceLostError:
            self._lose(device)
            return None

    def slow(self, device: GPUDevice) -> SlowReading:
        """Temperature, clocks, throttling, ECC and Xid errors: about seven calls."""
        return self._read(device, lambda figures: figures.slow.read(), _NO_SLOW)

    def rare(self, device: GPUDevice) -> RareReading:
        """Processes, PCIe and NVLink traffic. Takes tens of milliseconds: the driver counts PCIe bytes meanwhile."""
        return self._read(device, lambda figures: figures.rare.read(), _NO_RARE)

    def is_lost(self, device: GPUDevice) -> bool:
        """Whether the device stopped to answer; it is not asked again until ``open()``."""
        return device.uuid in self._lost

    def absences(self, device: GPUDevice) -> dict[str, str]:
        """Figures that were asked for and are None, by the name of the field, and why.

        What says how long: a reason that ends in "asked again" is of one call, every other of all until
        the next ``open()``. ``processes.utilization`` is the field of each process.
        """
        figures = self._figures.get(device.uuid)
        return {} if figures is None else dict(figures.absences())

    def _read(self, device: GPUDevice, read: Callable[[DeviceFigures], _Reading], nothing: _Reading) -> _Reading:
        figures = self._figures.get(device.uuid)
        if figures is None or device.uuid in self._lost:
            return nothing
        try:
            return read(figures)
        except DeviceLostError:
            self._lose(device)
            return nothing

    def _lose(self, device: GPUDevice) -> None:
        self._lost.add(device.uuid)
        self._fast.pop(device.uuid, None)
        if len(self._lost) == len(self.devices):
            gone = lost()
            self.status = replace(self.status, state=gone.state, message=gone.message, fix=gone.fix)

    def _adopt(self, gpus: tuple[FoundGPU, ...], known: tuple[GPUDevice, ...], versions: Versions) -> DriverStatus:
        """Takes over what was found; what was known before and is not found again counts as lost."""
        visible = self._visible(gpus)
        found = {entry.device.uuid for gpu in gpus for entry in gpu.found}
        # A MIG instance that is gone from a GPU that is there was taken down, and is not missed.
        gone = tuple(device for device in known if not {device.uuid, device.parent_uuid} & found)
        for entry in visible:
            uuid = entry.device.uuid
            figures = DeviceFigures(self._binding, entry.handle, entry.device, self._xids.get(uuid, 0))
            self._figures[uuid], self._fast[uuid] = figures, figures.fast.read
        self._lost = {device.uuid for device in gone}
        self.devices = (*(entry.device for entry in visible), *gone)
        self.status = self._status(gpus, hidden=len(found) - len(visible), versions=versions)
        if self.status.state is not DriverState.READY:
            self._shut()
        return self.status

    def _visible(self, gpus: tuple[FoundGPU, ...]) -> list[FoundDevice]:
        instances = {entry.device.uuid: (entry,) for gpu in gpus for entry in gpu.found[1:]}
        entries = {gpu.uuid: gpu.found for gpu in gpus} | instances
        shown = visible_uuids(self._environ.get(VISIBLE_VARIABLE), [gpu.uuid for gpu in gpus], list(instances))
        return [entry for uuid in shown for entry in entries[uuid]]

    def _status(self, gpus: tuple[FoundGPU, ...], *, hidden: int, versions: Versions) -> DriverStatus:
        around = look_around(self._environ)
        answering = [device for device in self.devices if device.uuid not in self._lost]
        errors = [gpu.error for gpu in gpus if gpu.error is not None]
        if answering:
            status = ready(answering, silent=len(errors))
        elif self.devices:
            status = lost()
        elif hidden:
            status = all_hidden(hidden, self._environ.get(VISIBLE_VARIABLE, ""))
        elif errors:
            status = explain(errors[0], around)
        else:
            status = no_device(around)
        return replace(status, driver_version=versions[0], cuda_version=versions[1], hidden=hidden)

    def _shut(self) -> None:
        """Lets go of NVML, and keeps what is known of the devices."""
        # After a fork it is the parent's, down to the open files: shutting it down here would take it away there.
        ours = self._owner == os.getpid()
        for uuid, figures in self._figures.items():
            self._xids[uuid] = figures.xids.total
            if ours:
                figures.xids.close()
        self._figures, self._fast = {}, {}
        if self._binding is not None and ours:
            with contextlib.suppress(Exception):  # The driver may be gone, and then there is nothing to let go of.
                self._binding.nvmlShutdown()
        self._binding = None
