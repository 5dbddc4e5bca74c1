"""One device of the NVML stub while its test runs: what a script can do to it."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.testing import nvml_stub_state as layout
from llamatelemetry.testing.nvml_stub_devices import StubDevice, StubProcess, first_figures

_NOT_AVAILABLE_32: Final = 2**32 - 1
_NOT_AVAILABLE_64: Final = 2**64 - 1
_PJ_PER_MJ: Final = 10**9
_XID: Final = 0x8
"""``nvmlEventTypeXidCriticalError``."""


class ScriptedDevice:
    """One device of a :class:`~llamatelemetry.testing.nvml_stub.NvmlStub`; every change is seen at once.

    Times are the model's, in seconds. Power is constant from one :meth:`power_w` to the next, and
    energy is its exact integral: the script's own words, to the picojoule, are the reference that
    a reader is compared with.

    Attributes:
        described: The device as it was described.
        uuid: Its UUID.
    """

    def __init__(
        self, described: StubDevice, memory: layout.Device, library: layout.Library, now_ns: Callable[[], int]
    ) -> None:
        self.described = described
        self.uuid: str = described.uuid
        self._memory: Any = memory
        self._library = library
        self._now_ns = now_ns
        self._writing = threading.RLock()
        self._describe(described)

    def power_w(self, watts: float, at_s: float | None = None) -> None:
        """Draws that much power from then on, kept to the milliwatt.

        Args:
            watts: Power.
            at_s: From when on; None for now. May lie in the future, so that a whole curve can be
                laid out before time moves.

        Raises:
            InvalidValueError: The time is before the last change of power.
        """
        start_ns = self._now_ns() if at_s is None else round(at_s * 1e9)
        with self._change():
            last = self._memory.segments[self._memory.segments_used - 1]
            if start_ns < last.start_ns:
                fix = f"power was already set from {last.start_ns / 1e9} s on: give changes in order of time"
                raise InvalidValueError("at_s", start_ns / 1e9, fix)
            if start_ns > last.start_ns:
                self._append(start_ns, *divmod(_energy_pj(last, start_ns), _PJ_PER_MJ))
            self._memory.segments[self._memory.segments_used - 1].power_mw = round(watts * 1000)

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Energy that the script lets it use between two moments, whatever the counter shows.

        Exact while the power changed at most 2,000 times since ``start_s``; older changes may have
        been dropped.
        """
        start_ns, end_ns = round(start_s * 1e9), round(end_s * 1e9)
        with self._writing:
            return (self._energy_pj(end_ns) - self._energy_pj(start_ns)) / 1e12

    def restart_counter(self) -> None:
        """Sets the energy counter to zero, as a reload of the driver does."""
        with self._change():
            now_ns = self._now_ns()
            self._memory.segments[0].power_mw = self._segment_at(now_ns).power_mw
            self._memory.segments[0].start_ns = now_ns
            self._memory.segments[0].energy_mj = self._memory.segments[0].energy_pj = 0
            self._memory.segments_used = 1

    def memory_used(self, used_bytes: int) -> None:
        """Has that much memory in use, what the driver keeps for itself included."""
        self.figure("memory_used", used_bytes)

    def mig_memory_used(self, index: int, used_bytes: int) -> None:
        """Has that much memory in use on a MIG instance."""
        self._memory.migs[index].memory_used = used_bytes

    def mig_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - it says what it sets
        """Turns MIG on or off; handles of instances that are off are invalid."""
        self.figure("mig_mode", int(enabled))

    def utilization(self, gpu_percent: int, memory_percent: int = 0) -> None:
        """Shows that utilization, in percent."""
        self.figure("utilization_gpu", gpu_percent)
        self.figure("utilization_memory", memory_percent)

    def temperature(self, celsius: int) -> None:
        """Shows that temperature."""
        self.figure("temperature", celsius)

    def clocks(self, sm_mhz: int, memory_mhz: int) -> None:
        """Runs at those clocks; graphics and multiprocessors share one."""
        self.figure("clock_graphics", sm_mhz)
        self.figure("clock_sm", sm_mhz)
        self.figure("clock_memory", memory_mhz)

    def throttle(self, reasons: int) -> None:
        """Holds its clocks down for those reasons: bits of ``nvmlClocksEventReason…``, 0 for none."""
        self.figure("throttle_reasons", reasons)

    def ecc_errors(self, corrected: int, uncorrected: int) -> None:
        """Has had that many memory errors since the driver was loaded, and in its life."""
        for name, count in (("ecc_corrected", corrected), ("ecc_uncorrected", uncorrected)):
            self.figure(name, count)
            self.figure(f"{name}_aggregate", count)

    def pcie_throughput(self, transmitted_kb_per_s: int, received_kb_per_s: int) -> None:
        """Moves that much over PCIe, in the driver's unit."""
        self.figure("pcie_tx_kb_per_s", transmitted_kb_per_s)
        self.figure("pcie_rx_kb_per_s", received_kb_per_s)

    def nvlink(
        self,
        link: int,
        *,
        transmitted_bytes: int | None = None,
        received_bytes: int | None = None,
        active: bool | None = None,
        errors: int | None = None,
    ) -> None:
        """Sets what an NVLink's counters show (the driver counts whole KiB) and whether it is up; None leaves it."""
        memory = self._memory.links[link]
        for name, value in (
            ("transmitted_kib", None if transmitted_bytes is None else transmitted_bytes // 1024),
            ("received_kib", None if received_bytes is None else received_bytes // 1024),
            ("active", active),
            ("errors", errors),
        ):
            if value is not None:
                setattr(memory, name, int(value))

    def processes(self, processes: Iterable[StubProcess]) -> None:
        """Runs these processes and no other."""
        listed = tuple(processes)
        if len(listed) > layout.PROCESSES:
            raise InvalidValueError("processes", len(listed), f"the model holds at most {layout.PROCESSES}")
        with self._change():
            self._memory.processes_used = len(listed)
            for index, process in enumerate(listed):
                memory = self._memory.processes[index]
                memory.pid = process.pid
                memory.graphics = process.graphics
                memory.gpu_instance = _or(process.gpu_instance, _NOT_AVAILABLE_32)
                memory.compute_instance = _or(process.compute_instance, _NOT_AVAILABLE_32)
                memory.memory = _or(process.memory_bytes, _NOT_AVAILABLE_64)
                memory.utilization[0] = _or(process.utilization, _NOT_AVAILABLE_32)
                memory.utilization[1] = process.memory_utilization

    def xid(self, code: int) -> None:
        """Reports an Xid to whoever registered for them."""
        self.event(_XID, code)

    def event(self, event_type: int, data: int = 0) -> None:
        """Reports an event of one ``nvmlEventType…`` to whoever registered for it."""
        with self._writing:
            memory = self._memory.events[self._memory.events_ever % layout.EVENTS]
            memory.type, memory.data = event_type, data
            self._memory.events_ever += 1

    def figure(self, name: str, value: int | None) -> None:
        """Sets any one figure of the model; None: the device does not tell it.

        Args:
            name: A name from the table ``FIGURES`` of ``nvml_stub.c``, such as ``power_limit_mw``.
            value: The figure, in the unit that NVML uses.

        Raises:
            UnknownNameError: There is no such figure.
        """
        self._memory.figures[self._library.figure(name)] = _or(value, layout.MISSING)

    def fail(self, function: str, code: int) -> None:
        """Makes a function answer an error for this device and its MIG instances.

        Args:
            function: For example ``nvmlDeviceGetPowerUsage``, with or without a version.
            code: ``NVML_ERROR_…``; 0 for no longer.

        Raises:
            UnknownNameError: The stub has no such function.
        """
        self._memory.errors[self._library.function(function)] = code

    def lose(self) -> None:
        """Falls off the bus: every call about it answers NVML_ERROR_GPU_IS_LOST."""
        self.figure("lost", 1)

    def restore(self) -> None:
        """Comes back, and has gone on as scripted; :meth:`restart_counter` if its driver was loaded anew."""
        self.figure("lost", 0)

    def _describe(self, device: StubDevice) -> None:
        memory = self._memory
        for name in ("name", "uuid", "serial", "pci_bus_id", "vbios"):
            setattr(memory, name, getattr(device, name).encode())
        for name in self._library.figures:
            self.figure(name, None)
        for name, value in first_figures(device).items():
            self.figure(name, value)
        for scope, cpus in enumerate((device.cpus, device.socket_cpus or device.cpus)):
            _set_bits(memory.cpus[scope], cpus)
            _set_bits(memory.nodes[scope], () if device.numa_node is None else (device.numa_node,))
        self._describe_parts(device)
        memory.segments_used = 1
        memory.segments[0].energy_mj = device.counter_start_mj
        memory.segments[0].power_mw = round((device.idle_power_w or 0) * 1000)

    def _describe_parts(self, device: StubDevice) -> None:
        links, migs = device.nvlinks or (), device.mig or ()
        for field, parts, most in (("nvlinks", links, layout.LINKS), ("mig", migs, layout.MIGS)):
            if len(parts) > most:
                raise InvalidValueError(field, len(parts), f"the model holds at most {most}")
        for link, memory in zip(links, self._memory.links, strict=False):
            memory.remote_bus_id = link.remote.encode()
            memory.active, memory.version, memory.speed_mbps = link.active, link.version, link.speed_mbps
            memory.remote_type = 2 if link.to_switch else 0
        for mig, memory in zip(migs, self._memory.migs, strict=False):
            memory.uuid, memory.name = mig.uuid.encode(), f"{device.name} MIG {mig.profile}".encode()
            memory.gpu_instance, memory.compute_instance = mig.gpu_instance, mig.compute_instance
            memory.multiprocessors = mig.multiprocessors
            memory.gpu_slices = memory.compute_slices = int(mig.profile.split("g", 1)[0])
            memory.memory_total, memory.memory_used = mig.memory_total_bytes, mig.memory_used_bytes

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Lets readers in all processes wait, or try again, while several words change together."""
        with self._writing:
            self._memory.changing += 1
            try:
                yield
            finally:
                self._memory.changing += 1

    def _append(self, start_ns: int, energy_mj: int, energy_pj: int) -> None:
        memory, segments = self._memory, self._memory.segments
        if memory.segments_used == layout.SEGMENTS:
            half = layout.SEGMENTS // 2
            size = ctypes.sizeof(layout.Segment)
            ctypes.memmove(segments, ctypes.byref(segments, half * size), half * size)
            memory.segments_used = half
        segment = segments[memory.segments_used]
        segment.start_ns, segment.energy_mj, segment.energy_pj = start_ns, energy_mj, energy_pj
        memory.segments_used += 1

    def _segment_at(self, time_ns: int) -> Any:
        low, high = 0, self._memory.segments_used
        while high - low > 1:
            middle = (low + high) // 2
            if self._memory.segments[middle].start_ns <= time_ns:
                low = middle
            else:
                high = middle
        return self._memory.segments[low]

    def _energy_pj(self, time_ns: int) -> int:
        return _energy_pj(self._segment_at(time_ns), time_ns)


def _energy_pj(segment: Any, time_ns: int) -> int:
    """Milliwatts times nanoseconds are picojoules: all of it in whole numbers."""
    energy: int = segment.energy_mj * _PJ_PER_MJ + segment.energy_pj + segment.power_mw * (time_ns - segment.start_ns)
    return energy


def _or(value: int | None, missing: int) -> int:
    return missing if value is None else value


def _set_bits(words: Any, bits: Sequence[int]) -> None:
    for bit in bits:
        words[bit // 64] |= 1 << bit % 64
