"""The struct that the NVML stub answers from, as ctypes sees it, and the compiler that builds the stub.

It mirrors ``nvml_stub.c``; the two are compared by size when the library is loaded. Figures and
functions are found by the names in the library's own tables.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import IntegrityError, MissingDependencyError, UnknownNameError

LIBRARY: Final = "libnvidia-ml.so.1"
"""File name under which NVIDIA's binding looks for the driver's library."""
MISSING: Final = -(2**63)
"""A figure that the device does not tell."""
DEVICES: Final = 16
MIGS: Final = 8
LINKS: Final = 18
PROCESSES: Final = 64
EVENTS: Final = 64
SEGMENTS: Final = 4096
CPUS: Final = 1024
"""Most of each that the struct has room for."""

_LAYOUT: Final = 1
_FUNCTIONS: Final = 128
_FIGURES: Final = 96
_PEER_CAPABILITIES: Final = 5
_U32: Final = ctypes.c_uint32
_U64: Final = ctypes.c_uint64
_I32: Final = ctypes.c_int32
_I64: Final = ctypes.c_int64


class Segment(ctypes.Structure):
    """A stretch of constant power, with the energy used before it."""

    _fields_ = (("start_ns", _I64), ("power_mw", _I64), ("energy_mj", _U64), ("energy_pj", _U64))


class Link(ctypes.Structure):
    """One NVLink."""

    _fields_ = (
        ("remote_bus_id", ctypes.c_char * 32),
        ("active", _U32),
        ("version", _U32),
        ("remote_type", _U32),
        ("speed_mbps", _U32),
        ("transmitted_kib", _U64),
        ("received_kib", _U64),
        ("errors", _U64),
    )


class Process(ctypes.Structure):
    """One process on a GPU."""

    _fields_ = (
        ("pid", _U32),
        ("gpu_instance", _U32),
        ("compute_instance", _U32),
        ("graphics", _U32),
        ("memory", _U64),
        ("utilization", _U32 * 4),
    )


class Mig(ctypes.Structure):
    """One MIG instance; an empty UUID says that there is none."""

    _fields_ = (
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("gpu_instance", _U32),
        ("compute_instance", _U32),
        ("multiprocessors", _U32),
        ("gpu_slices", _U32),
        ("compute_slices", _U32),
        ("padding", _U32),
        ("memory_total", _I64),
        ("memory_used", _I64),
    )


class Event(ctypes.Structure):
    """One event for those who registered for its type."""

    _fields_ = (("type", _U64), ("data", _U64))


class Device(ctypes.Structure):
    """One GPU."""

    _fields_ = (
        ("name", ctypes.c_char * 96),
        ("uuid", ctypes.c_char * 96),
        ("serial", ctypes.c_char * 32),
        ("pci_bus_id", ctypes.c_char * 32),
        ("vbios", ctypes.c_char * 32),
        ("figures", _I64 * _FIGURES),
        ("errors", _I32 * _FUNCTIONS),
        ("levels", _I32 * DEVICES),
        ("peers", (_I32 * _PEER_CAPABILITIES) * DEVICES),
        ("cpus", (_U64 * (CPUS // 64)) * 2),
        ("nodes", (_U64 * (CPUS // 64)) * 2),
        ("links", Link * LINKS),
        ("migs", Mig * MIGS),
        ("events", Event * EVENTS),
        ("events_ever", _U64),
        ("changing", _U64),
        ("processes_used", _U64),
        ("processes", Process * PROCESSES),
        ("segments_used", _U64),
        ("segments", Segment * SEGMENTS),
    )


class State(ctypes.Structure):
    """The whole model."""

    _fields_ = (
        ("layout", _U64),
        ("manual", _U64),
        ("manual_ns", _I64),
        ("origin_ns", _I64),
        ("origin_unix_ns", _I64),
        ("devices_used", _U64),
        ("cuda_version", _I64),
        ("driver_version", ctypes.c_char * 80),
        ("nvml_version", ctypes.c_char * 80),
        ("calls", _U64 * _FUNCTIONS),
        ("delays_ns", _I64 * _FUNCTIONS),
        ("errors", _I32 * _FUNCTIONS),
        ("devices", Device * DEVICES),
    )


class Library:
    """The compiled stub, loaded into this process under its full path.

    It has no SONAME, so that nothing else in this process finds it by name.

    Attributes:
        folder: Where it lies, under the driver's file name.
        figures: Index of each figure.
        functions: Index of each function of NVML that it has.
    """

    def __init__(self, path: Path) -> None:
        self.folder: Path = path.parent
        self._path = path
        self._handle = self.load()
        for name, size in (("layout", _LAYOUT), ("device_size", ctypes.sizeof(Device)), ("state_size", _STATE_SIZE)):
            answer = self._number(f"nvml_stub_{name}")
            if answer != size:
                raise IntegrityError("nvml_stub", f"{name} is {answer} in C and {size} in Python")
        self.figures: Mapping[str, int] = self._table("nvml_stub_figure")
        self.functions: Mapping[str, int] = self._table("nvml_stub_function")

    def load(self) -> ctypes.CDLL:
        """The library as a binding would load it."""
        return ctypes.CDLL(str(self._path))

    def leave(self) -> None:
        """Ends its use by this process: every call answers NVML_ERROR_UNINITIALIZED until the next nvmlInit."""
        self._handle.nvml_stub_leave()

    def figure(self, name: str) -> int:
        """Index of a figure.

        Raises:
            UnknownNameError: There is no such figure.
        """
        if name not in self.figures:
            raise UnknownNameError("figure of the NVML stub", name, tuple(self.figures))
        return self.figures[name]

    def function(self, name: str) -> int:
        """Index of a function of NVML, with or without its version: the newest one that there is.

        Raises:
            UnknownNameError: The stub does not have it.
        """
        if name == "nvmlInitWithFlags":
            name = "nvmlInit"  # The binding calls this one; all three are one function here.
        for candidate in (name, *(f"{name}_v{version}" for version in (4, 3, 2))):
            if candidate in self.functions:
                return self.functions[candidate]
        raise UnknownNameError("function of the NVML stub", name, tuple(self.functions))

    def _number(self, name: str) -> int:
        function = self._handle[name]
        function.restype = _U64
        answer: int = function()
        return answer

    def _table(self, name: str) -> dict[str, int]:
        function = self._handle[name]
        function.restype = ctypes.c_char_p
        table: dict[str, int] = {}
        while (entry := function(len(table))) is not None:
            table[entry.decode()] = len(table)
        return table


_STATE_SIZE: Final = ctypes.sizeof(State)


@functools.cache
def stub_library() -> Library:
    """The stub, compiled once per process into a temporary folder that goes when the process ends.

    Raises:
        MissingDependencyError: There is no C compiler.
        subprocess.CalledProcessError: The compiler refused; its output is in ``stderr``.
        IntegrityError: The C and the Python side do not agree on the struct.
    """
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise MissingDependencyError("the NVML stub", "a C compiler (cc)", "apt-get install gcc libc6-dev")
    folder = Path(tempfile.mkdtemp(prefix="nvml-stub-"))
    atexit.register(_remove, folder, os.getpid())
    path = folder / LIBRARY
    source = Path(__file__).with_name("nvml_stub.c")
    flags = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run([compiler, *flags, "-o", str(path), str(source)], check=True, capture_output=True, text=True)
    return Library(path)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # A forked child that exits must not take its parent's library away.
        shutil.rmtree(folder, ignore_errors=True)


def new_state(path: Path) -> State:
    """Makes the file at ``path`` and maps it, all zero but for the layout's number.

    Whoever maps the same file sees every later write.
    """
    with path.open("w+b") as file:
        file.truncate(_STATE_SIZE)
        state: Any = State.from_buffer(mmap.mmap(file.fileno(), _STATE_SIZE))
    state.layout = _LAYOUT
    assert isinstance(state, State)  # noqa: S101 - for the type checker: ctypes says Any
    return state
