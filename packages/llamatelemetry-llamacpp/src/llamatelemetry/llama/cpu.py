"""What this machine's CPU can do for llama.cpp: instructions it must have, threads worth using.

The prebuilt embedded runtime is compiled for AVX2-class CPUs; on an older one it dies of an illegal
instruction with no message, so the question is asked before anything is started.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

X86_FEATURES: Final = ("avx2", "fma", "f16c", "bmi2")
"""Flags of /proc/cpuinfo that the x86-64 wheel of xllamacpp is compiled with."""

MAX_THREADS: Final = 16
"""Past this, generating is bound by memory bandwidth and more threads only wait for each other."""

_X86_MACHINES: Final = frozenset({"x86_64", "amd64", "AMD64"})


def missing_features(cpuinfo: str | None = None, machine: str | None = None) -> tuple[str, ...]:
    """Instruction sets the embedded runtime needs and this CPU lacks; empty when it will run.

    Args:
        cpuinfo: Text of /proc/cpuinfo; read from the system when None.
        machine: Machine name as ``uname -m`` gives it; asked from the system when None.

    Returns:
        Names as /proc/cpuinfo spells them. Other architectures than x86-64 have wheels of their own
        and need nothing; an unreadable /proc/cpuinfo proves nothing and counts as fine.
    """
    if (platform.machine() if machine is None else machine) not in _X86_MACHINES:
        return ()
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        except OSError:
            return ()
    for line in cpuinfo.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() == "flags":
            flags = set(value.split())
            return tuple(feature for feature in X86_FEATURES if feature not in flags)
    return ()


def inference_threads(
    cpus: Collection[int] | None = None,
    siblings: Callable[[int], str | None] | None = None,
    quota: float | None = None,
) -> int:
    """Threads to compute with: one less than the physical cores this process may use, 1 to 16.

    One core is left to the application and the HTTP side of the server: llama.cpp's threads wait for
    each other after every operation, so one that is often descheduled slows all of them down.

    Args:
        cpus: Logical CPUs this process may run on; the scheduler's answer when None.
        siblings: Gives the hardware threads that share a CPU's core, as sysfs spells them.
        quota: CPUs' worth of time the control group allows; read from the system when None.
    """
    cpus = os.sched_getaffinity(0) if cpus is None else cpus
    siblings = _siblings if siblings is None else siblings
    cores = len({siblings(cpu) or cpu for cpu in cpus})
    quota = _quota() if quota is None else quota
    if quota is not None:
        cores = min(cores, round(quota))
    return max(1, min(cores - 1, MAX_THREADS))


def _siblings(cpu: int) -> str | None:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return None


def _quota() -> float | None:
    """CPU quota of this control group (cgroup v2 ``cpu.max``: quota and period in microseconds)."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)
