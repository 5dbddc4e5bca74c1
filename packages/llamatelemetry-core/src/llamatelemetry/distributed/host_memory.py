"""Memory of the host that a new process could have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that could be had without swapping: what the kernel reckons, or what the control group leaves if less.

    Args:
        meminfo: ``/proc/meminfo``.
        cgroup: The folder of this process's control group, version 2.

    Returns:
        None where the kernel does not say.
    """
    free = _field(meminfo, "MemAvailable:", 1024)
    limit = _number(cgroup / "memory.max")
    used = _number(cgroup / "memory.current")
    if limit is None or used is None:
        return free
    # Pages of files that were not used lately are the first to go.
    left = max(0, limit - used + (_field(cgroup / "memory.stat", "inactive_file", 1) or 0))
    return left if free is None else min(free, left)


def _field(path: Path, name: str, unit: int) -> int | None:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.split()[:1] == [name]]
    return int(values[0]) * unit if values and values[0].isdecimal() else None


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
