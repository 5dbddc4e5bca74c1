"""Which processes compute on a device, what they hold and how much of it they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from llamatelemetry.gpu.device import GPUProcess
from llamatelemetry.gpu.nvml_questions import Code, Way, code_of

_LISTS: Final = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
"""The second is of drivers before 510, and gone from newer bindings or to be."""


def process_ways(binding: Any, handle: Any) -> tuple[Way, ...]:
    """Ways to ask for the processes that compute on a device, without their utilization."""
    return tuple((name, lambda name=name: _merged(getattr(binding, name)(handle))) for name in _LISTS)


def _merged(found: Sequence[Any]) -> tuple[GPUProcess, ...]:
    """By process id; a process that uses several MIG instances of a GPU is listed for each."""
    held: dict[int, int | None] = {}
    for process in found:
        before, more = held.get(process.pid), process.usedGpuMemory
        held[process.pid] = more if before is None else before + (more or 0)
    return tuple(GPUProcess(pid=pid, memory_bytes=held[pid]) for pid in sorted(held))


def with_utilization(processes: Sequence[GPUProcess], shares: Mapping[int, float] | None) -> tuple[GPUProcess, ...]:
    """The processes with what each used: nothing, where the driver tells shares and leaves it out."""
    if shares is None:
        return tuple(processes)
    return tuple(replace(process, utilization=shares.get(process.pid, 0.0)) for process in processes)


class ProcessUtilization:
    """What processes used of a device's multiprocessors since they were last asked for."""

    def __init__(self, binding: Any, handle: Any) -> None:
        self._binding = binding
        self._handle = handle
        self._seen_until_us = 0

    def shares(self) -> dict[int, float]:
        """Process ids to shares, 0 to 1: the mean over a process's samples. Who did nothing is left out.

        Raises:
            NVMLError: The device does not tell.
        """
        try:
            samples = self._binding.nvmlDeviceGetProcessUtilization(self._handle, self._seen_until_us)
        except self._binding.NVMLError as error:
            # Not found: nobody did anything. No samples and success: the binding raises that, too.
            if code_of(error) in {Code.NOT_FOUND, Code.SUCCESS}:
                return {}
            raise
        percents: dict[int, list[int]] = {}
        # The driver fills the room it asked for; what it had no sample for has no time.
        for sample in samples:
            if sample.timeStamp > self._seen_until_us:
                percents.setdefault(sample.pid, []).append(sample.smUtil)
        self._seen_until_us = max((sample.timeStamp for sample in samples), default=self._seen_until_us)
        return {pid: sum(values) / len(values) / 100 for pid, values in percents.items()}
