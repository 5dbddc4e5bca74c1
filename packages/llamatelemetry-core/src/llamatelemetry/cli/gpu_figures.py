"""The figures of a GPU by name, and why those that are missing are: what ``--json`` prints and the table shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from llamatelemetry.gpu.device import DriverStatus, FastReading, GPUDevice, RareReading, SlowReading
from llamatelemetry.gpu.snapshot import GPUSnapshot

SINCE_WATCHING: Final = ("energy_j", "xid_errors")
"""Figures that count from when watching began: one look tells nothing of them."""

_READ_FROM: Final = {
    field.name: reading
    for reading, kind in (("fast", FastReading), ("slow", SlowReading), ("rare", RareReading))
    for field in fields(kind)
}
_OF_DEVICE: Final = ("memory_total_bytes", "memory_reserved_bytes", "power_limit_w", "mig_enabled")
_LOST: Final = "it does not answer; dmesg | grep -i xid may say why"
_NOT_WATCHED: Final = "counted from when watching begins: --watch"
_NOT_TOLD: Final = "the driver does not tell it"


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUFigures:
    """What is shown of one GPU.

    Attributes:
        device: The GPU, or MIG instance.
        lost: Whether it does not answer; all that changes is None then.
        state: As :attr:`llamatelemetry.gpu.snapshot.GPUSnapshot.state`.
        age_s: Seconds since it was read.
        values: By name of the field that the figure is in a reading; None for what is absent.
        absent: Why, for each that is None, and for parts of others.
    """

    device: GPUDevice
    lost: bool
    state: str
    age_s: float
    values: Mapping[str, Any]
    absent: Mapping[str, str]


def figures_of(snapshot: GPUSnapshot, absences: Mapping[str, str], *, now_ns: int, watched: bool) -> GPUFigures:
    """Figures and reasons of one GPU.

    Args:
        snapshot: What was read of it.
        absences: What its reader says of figures that are None.
        now_ns: The moment, on the clock of the snapshot.
        watched: Whether it was sampled for a while, so that what counts from then on means something.
    """
    device = snapshot.device
    values = {name: getattr(device, name) for name in _OF_DEVICE} | {"energy_j": snapshot.energy_j}
    for name, reading in _READ_FROM.items():
        values[name] = None if snapshot.lost else getattr(getattr(snapshot, reading), name)
    if not watched:
        values |= dict.fromkeys(SINCE_WATCHING)
    reasons = _reasons(snapshot, absences, watched=watched)
    missing = {name: reasons.get(name, _NOT_TOLD) for name, value in values.items() if value is None}
    return GPUFigures(
        device=device,
        lost=snapshot.lost,
        state=snapshot.state,
        age_s=(now_ns - snapshot.monotonic_ns) / 1e9,
        values=MappingProxyType(values),
        absent=MappingProxyType(missing | {part: reasons[part] for part in reasons.keys() - values.keys()}),
    )


def object_of(driver: DriverStatus, gpus: Sequence[GPUFigures]) -> dict[str, Any]:
    """All of it as one JSON object."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "driver": {
            "state": driver.state.value,
            "message": driver.message,
            "version": driver.driver_version,
            "cuda": driver.cuda_version,
            "hidden": driver.hidden,
        },
        "gpus": [_gpu(gpu) for gpu in gpus],
    }


def _gpu(gpu: GPUFigures) -> dict[str, Any]:
    device, values = gpu.device, dict(gpu.values)
    if values["processes"] is not None:
        values["processes"] = [asdict(process) for process in values["processes"]]
    compute = device.compute_capability
    return {
        "index": device.index,
        "uuid": device.uuid,
        "parent_uuid": device.parent_uuid,
        "name": device.name,
        "pci_bus_id": device.pci_bus_id,
        "compute_capability": None if compute is None else "{}.{}".format(*compute),
        "state": gpu.state,
        "lost": gpu.lost,
        "age_s": round(gpu.age_s, 3),
        **values,
        "absent": dict(gpu.absent),
    }


def _reasons(snapshot: GPUSnapshot, absences: Mapping[str, str], *, watched: bool) -> dict[str, str]:
    instance = snapshot.device.parent_uuid is not None
    reasons = {
        "memory_reserved_bytes": "the driver counts it as used",
        "mig_enabled": "it is a MIG instance" if instance else "it cannot be split into MIG instances",
        "power_limit_w": "a MIG instance has none of its own" if instance else _NOT_TOLD,
        **(dict.fromkeys(_READ_FROM, _LOST) if snapshot.lost else absences),
    }
    reasons["energy_j"] = reasons.get("energy_mj", _NOT_TOLD) if watched else _NOT_WATCHED
    if not watched:
        reasons.setdefault("xid_errors", _NOT_WATCHED)
    return reasons
