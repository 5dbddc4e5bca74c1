"""A driver library without hardware: NVML answered from a script, for tests of what reads GPUs.

:class:`NvmlStub` compiles a small ``libnvidia-ml.so.1`` and puts it where NVIDIA's own Python
binding finds it, in this process and in children. A test describes the devices, scripts power,
memory, errors and time, and everything above the driver runs as it would on a real machine.

It proves the path and never a value: whatever is read through it was written by the script. Name
tests that use it accordingly, and report nothing from it as a measurement.

Example:
    ::

        with NvmlStub(TESLA_T4_X2, tmp_path) as stub:
            stub.set_time(0)
            stub.devices[0].power_w(70, at_s=1)
            stub.set_time(3)
            pynvml.nvmlInit()
            device = pynvml.nvmlDeviceGetHandleByIndex(0)
            pynvml.nvmlDeviceGetTotalEnergyConsumption(device)  # 10 W for 1 s, 70 W for 2 s
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.testing import nvml_stub_state as layout
from llamatelemetry.testing.nvml_stub_devices import (
    StubDevice,
    StubMig,
    StubNvlink,
    StubProcess,
    p2p_statuses,
    topology_level,
)
from llamatelemetry.testing.nvml_stub_scenarios import A100_MIG, A100_X4, H100, H100_X8, LAPTOP, TESLA_T4_X2
from llamatelemetry.testing.nvml_stub_script import ScriptedDevice

__all__ = [
    "A100_MIG",
    "A100_X4",
    "H100",
    "H100_X8",
    "LAPTOP",
    "TESLA_T4_X2",
    "NvmlStub",
    "ScriptedDevice",
    "StubDevice",
    "StubMig",
    "StubNvlink",
    "StubProcess",
]

_STATE: Final = "NVML_STUB_STATE"
_SEARCH: Final = "LD_LIBRARY_PATH"


class NvmlStub:
    """A scripted NVML; a context manager.

    While it is entered, ``pynvml`` in this process talks to it, and so does every child process
    that inherits the environment. Without entering, only children that are given :attr:`environ`
    do. One process writes the script; any number may read. At most one is entered at a time.

    Time is the device model's own, in seconds since the stub was made: the real monotonic clock
    until :meth:`set_time` takes it in hand.

    Args:
        devices: What there is, in NVML's order; may be empty.
        folder: Where the file with the model goes, such as pytest's ``tmp_path``.
        driver_version: What the driver calls itself.
        cuda_version: Highest CUDA version it runs: major, minor.

    Attributes:
        devices: The same devices, to be scripted.
        origin_ns: ``time.monotonic_ns()`` (on Linux also ``perf_counter_ns()``) at the model's time zero.

    Raises:
        InvalidValueError: There are too many devices, MIG instances or links for the model.
        MissingDependencyError: There is no C compiler.
    """

    def __init__(
        self,
        devices: Sequence[StubDevice],
        folder: Path,
        *,
        driver_version: str = "550.54.15",
        cuda_version: tuple[int, int] = (12, 4),
    ) -> None:
        if len(devices) > layout.DEVICES:
            raise InvalidValueError("devices", len(devices), f"the model holds at most {layout.DEVICES}")
        self._library = layout.stub_library()
        descriptor, path = tempfile.mkstemp(prefix="nvml-stub-", dir=folder)
        os.close(descriptor)
        self._path = Path(path)
        self._state = layout.new_state(self._path)
        self._state.driver_version = driver_version.encode()
        self._state.nvml_version = f"{cuda_version[0]}.{driver_version}".encode()
        self._state.cuda_version = 1000 * cuda_version[0] + 10 * cuda_version[1]
        self._state.devices_used = len(devices)
        self.origin_ns: int = time.monotonic_ns()
        self._state.origin_ns = self.origin_ns
        self._state.origin_unix_ns = time.time_ns()
        self.devices: tuple[ScriptedDevice, ...] = tuple(
            ScriptedDevice(device, self._state.devices[index], self._library, self._now_ns)
            for index, device in enumerate(devices)
        )
        for one, device in enumerate(devices):
            for other, peer in enumerate(devices):
                memory = self._state.devices[one]
                memory.levels[other] = topology_level(device, peer)
                memory.peers[other] = p2p_statuses(device, peer)
        self._kept_environ: dict[str, str | None] = {}
        self._kept_binding: tuple[Any, dict[str, Any], int] | None = None

    @property
    def environ(self) -> Mapping[str, str]:
        """Variables that make a child process find it; put them over the child's other ones."""
        folder = str(self._library.folder)
        others = [path for path in os.environ.get(_SEARCH, "").split(os.pathsep) if path not in ("", folder)]
        return {_SEARCH: os.pathsep.join([folder, *others]), _STATE: str(self._path)}

    @property
    def now_s(self) -> float:
        """The model's time in seconds."""
        return self._now_ns() / 1e9

    def set_time(self, seconds: float | None) -> None:
        """Stops the model's clock at ``seconds``; None lets it run with the real one, from when the stub was made."""
        if seconds is not None:
            self._state.manual_ns = round(seconds * 1e9)
        self._state.manual = seconds is not None

    def advance(self, seconds: float) -> None:
        """Moves a clock that was stopped by :meth:`set_time` on by ``seconds``."""
        self.set_time((self._now_ns() + round(seconds * 1e9)) / 1e9)

    def fail(self, function: str, code: int) -> None:
        """Makes a function answer an error, whatever the device.

        Args:
            function: For example ``nvmlInit``, with or without its version.
            code: ``NVML_ERROR_…``; 0 for no longer.

        Raises:
            UnknownNameError: The stub has no such function.
        """
        self._state.errors[self._library.function(function)] = code

    def slow(self, function: str, seconds: float) -> None:
        """Makes a function take that long, as process lists do on real machines; 0 for no longer.

        Calls that are waiting then go by the new time, so that one that hangs can be let go.
        """
        self._state.delays_ns[self._library.function(function)] = round(seconds * 1e9)

    def calls(self, function: str | None = None) -> int:
        """How often a function was called, or all of them, by any process; failed calls count too."""
        if function is None:
            return sum(self._state.calls)
        count: int = self._state.calls[self._library.function(function)]
        return count

    def __enter__(self) -> Self:
        import pynvml

        for name, value in self.environ.items():
            self._kept_environ[name] = os.environ.get(name)
            os.environ[name] = value
        # What the binding keeps of a library it has loaded: handle, functions found, open count.
        self._kept_binding = (pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache), pynvml._nvmlLib_refcount)  # noqa: SLF001
        _bind(pynvml, self._library.load(), {}, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import pynvml

        self._library.leave()
        if self._kept_binding is not None:
            _bind(pynvml, *self._kept_binding)
            self._kept_binding = None
        for name, value in self._kept_environ.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._kept_environ.clear()

    def _now_ns(self) -> int:
        if self._state.manual:
            stopped: int = self._state.manual_ns
            return stopped
        return time.monotonic_ns() - self.origin_ns


def _bind(pynvml: Any, library: Any, functions: Mapping[str, Any], opened: int) -> None:
    """Makes the binding use a library, as if its loader had found it."""
    with pynvml.libLoadLock:
        pynvml.nvmlLib = library
        pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001
        pynvml._nvmlGetFunctionPointer_cache.update(functions)  # noqa: SLF001
        pynvml._nvmlLib_refcount = opened  # noqa: SLF001
