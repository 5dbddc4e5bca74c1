"""Metrics of GPUs: OpenTelemetry's ``hw.*``, and ours where it has none.

Names, kinds, units and attributes are those of the hardware conventions, release 1.44
(docs/hardware/gpu.md, common.md and temperature.md there). Rows are keyed on the fields of
``gpu.snapshot.GPUSnapshot`` and ``gpu.totals.EnergyTotals``, a dot leading into a part of them, as
those of an engine are on its stats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from opentelemetry.semconv._incubating.attributes import hw_attributes as names
from opentelemetry.semconv._incubating.attributes.network_attributes import NETWORK_IO_DIRECTION
from opentelemetry.semconv._incubating.metrics import hw_metrics
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.metrics import Instrument, InstrumentKind

State = Literal["ok", "degraded", "failed"]
"""States of a GPU that we can tell. The convention's ``predicted_failure`` is not among them."""

STATES: Final[tuple[State, ...]] = ("ok", "degraded", "failed")
"""All of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedReading:
    """Says that a figure of a GPU's snapshot is observed on an instrument.

    Attributes:
        instrument: Where it is observed.
        field: The figure; nothing is observed while it is None.
        fixed: Attributes that tell this row from others on the same instrument.
        scale: What to multiply the figure by to have it in the instrument's unit.
        one_of: Where the figure is one of several names, the attribute that all of them go on and the
            names: 1 is observed for the one that it is, 0 for the others.
        when_lost: Observed of a device that does not answer, too; its other figures would be old ones.
    """

    instrument: Instrument
    field: str
    fixed: tuple[tuple[Attribute, str], ...] = ()
    scale: int = 1
    one_of: tuple[Attribute, tuple[str, ...]] | None = None
    when_lost: bool = False


HW_ID: Final = Attribute(
    names.HW_ID, "string", "device.uuid", "UUID of the GPU or of the MIG instance.", requirement="required"
)
HW_NAME: Final = Attribute(names.HW_NAME, "string", "device.label", "Short name on this host, such as GPU 0.")
HW_PARENT: Final = Attribute(
    names.HW_PARENT, "string", "device.parent_uuid", "UUID of the GPU that a MIG instance is a part of."
)
HW_TYPE: Final = Attribute(names.HW_TYPE, "string", "", "Always gpu.", requirement="required")
HW_MODEL: Final = Attribute(names.HW_MODEL, "string", "device.name", "What it is, such as Tesla T4.")
HW_VENDOR: Final = Attribute(names.HW_VENDOR, "string", "", "Always NVIDIA.")
HW_DRIVER_VERSION: Final = Attribute(names.HW_DRIVER_VERSION, "string", "", "Version of the driver.")
HW_GPU_TASK: Final = Attribute(
    names.HW_GPU_TASK, "string", "", "What kind of work it is: always general, which is not video."
)
HW_STATE: Final = Attribute(
    names.HW_STATE,
    "string",
    "",
    "The state that the point is about: ok, degraded (clocks held down by heat or by the board) or failed (lost).",
    requirement="required",
)
HW_SENSOR_LOCATION: Final = Attribute(names.HW_SENSOR_LOCATION, "string", "", "Where it is measured: always GPU_DIE.")
ERROR_KIND: Final = Attribute(
    ERROR_TYPE,
    "string",
    "",
    "Kind of error: corrected and uncorrected are those of the memory, xid is any that the driver reported.",
    requirement="required",
)
DIRECTION: Final = Attribute(NETWORK_IO_DIRECTION, "string", "", "transmit or receive.", requirement="required")
CLOCK_DOMAIN: Final = Attribute(
    "llamatelemetry.gpu.clock.domain",
    "string",
    "",
    "Which clock: sm, of the multiprocessors, or memory.",
    requirement="required",
)
ENERGY_USE: Final = Attribute(
    "llamatelemetry.gpu.energy.use",
    "string",
    "",
    "Where it went: requests, idle, or unattributed, which is above idle and of no request.",
    requirement="required",
)

_COMMON: Final = (HW_ID, HW_TYPE, HW_NAME, HW_PARENT)
"""On what the conventions have for components of any kind."""
_SPECIFIC: Final = (*_COMMON, HW_MODEL, HW_VENDOR, HW_DRIVER_VERSION)
"""On what they have for GPUs alone."""
_OWN: Final = (HW_ID, HW_NAME, HW_PARENT)

FIXED: Final = ((HW_TYPE, names.HwTypeValues.GPU.value), (HW_VENDOR, "NVIDIA"))
"""Attributes that are the same on every instrument that carries them."""


def _common(name: str, kind: InstrumentKind, unit: str, brief: str, *attributes: Attribute) -> Instrument:
    return Instrument(name, kind, unit, brief, attributes=(*_COMMON, *attributes))


def _specific(name: str, kind: InstrumentKind, unit: str, brief: str, *attributes: Attribute) -> Instrument:
    return Instrument(name, kind, unit, brief, attributes=(*_SPECIFIC, *attributes))


def _own(name: str, kind: InstrumentKind, unit: str, brief: str, *attributes: Attribute) -> Instrument:
    return Instrument(f"llamatelemetry.gpu.{name}", kind, unit, brief, attributes=(*_OWN, *attributes))


UTILIZATION: Final = _specific(
    hw_metrics.HW_GPU_UTILIZATION,
    "observable_gauge",
    "1",
    "Share of the driver's last measuring period in which a kernel ran.",
    HW_GPU_TASK,
)
MEMORY_USAGE: Final = _specific(
    hw_metrics.HW_GPU_MEMORY_USAGE,
    "observable_up_down_counter",
    "By",
    "GPU memory in use, by whatever process.",
)
MEMORY_LIMIT: Final = _specific(
    hw_metrics.HW_GPU_MEMORY_LIMIT, "observable_up_down_counter", "By", "GPU memory there is."
)
MEMORY_UTILIZATION: Final = _specific(
    hw_metrics.HW_GPU_MEMORY_UTILIZATION,
    "observable_gauge",
    "1",
    "Share of the GPU memory that is in use; not the load of its controller.",
)
IO: Final = _specific(hw_metrics.HW_GPU_IO, "observable_counter", "By", "Bytes over all NVLinks of the GPU.", DIRECTION)
ENERGY: Final = _common(hw_metrics.HW_ENERGY, "observable_counter", "J", "Energy that the GPU took.")
POWER: Final = _common(hw_metrics.HW_POWER, "observable_gauge", "W", "Power that the GPU draws.")
TEMPERATURE: Final = Instrument(
    hw_metrics.HW_TEMPERATURE,
    "observable_gauge",
    "Cel",
    "Temperature of the GPU.",
    attributes=(HW_ID, HW_NAME, HW_PARENT, HW_SENSOR_LOCATION),
)
ERRORS: Final = _common(
    hw_metrics.HW_ERRORS, "observable_counter", "{error}", "Errors that the GPU or its driver told of.", ERROR_KIND
)
STATUS: Final = _common(
    hw_metrics.HW_STATUS,
    "observable_up_down_counter",
    "1",
    "1 for the state that the GPU is in, 0 for the others.",
    HW_STATE,
)
CLOCK: Final = _own("clock", "observable_gauge", "Hz", "Clock that the GPU runs at.", CLOCK_DOMAIN)
CONTROLLER: Final = _own(
    "memory.controller.utilization",
    "observable_gauge",
    "1",
    "Share of the driver's last measuring period in which GPU memory was read or written.",
)
PCIE: Final = _own(
    "pcie.throughput", "observable_gauge", "By/s", "Bytes per second over PCIe, as the driver measured last.", DIRECTION
)
ENERGY_SPLIT: Final = Instrument(
    "llamatelemetry.gpu.energy",
    "observable_counter",
    "J",
    "Energy that the GPU took, by what it was for.",
    attributes=(HW_ID, ENERGY_USE),
)

_SENT: Final = ((DIRECTION, "transmit"),)
_RECEIVED: Final = ((DIRECTION, "receive"),)

OBSERVED: Final = (
    ObservedReading(instrument=UTILIZATION, field="fast.utilization", fixed=((HW_GPU_TASK, "general"),)),
    ObservedReading(instrument=MEMORY_USAGE, field="fast.memory_used_bytes"),
    ObservedReading(instrument=MEMORY_LIMIT, field="device.memory_total_bytes"),
    ObservedReading(instrument=MEMORY_UTILIZATION, field="memory_utilization"),
    ObservedReading(instrument=IO, field="rare.nvlink_transmitted_bytes", fixed=_SENT),
    ObservedReading(instrument=IO, field="rare.nvlink_received_bytes", fixed=_RECEIVED),
    ObservedReading(instrument=ENERGY, field="energy_j"),
    ObservedReading(instrument=POWER, field="fast.power_w"),
    ObservedReading(instrument=TEMPERATURE, field="slow.temperature_c", fixed=((HW_SENSOR_LOCATION, "GPU_DIE"),)),
    ObservedReading(instrument=ERRORS, field="slow.ecc_corrected", fixed=((ERROR_KIND, "corrected"),)),
    ObservedReading(instrument=ERRORS, field="slow.ecc_uncorrected", fixed=((ERROR_KIND, "uncorrected"),)),
    ObservedReading(instrument=ERRORS, field="slow.xid_errors", fixed=((ERROR_KIND, "xid"),)),
    ObservedReading(instrument=STATUS, field="state", one_of=(HW_STATE, STATES), when_lost=True),
    ObservedReading(instrument=CLOCK, field="slow.sm_clock_mhz", fixed=((CLOCK_DOMAIN, "sm"),), scale=1_000_000),
    ObservedReading(
        instrument=CLOCK, field="slow.memory_clock_mhz", fixed=((CLOCK_DOMAIN, "memory"),), scale=1_000_000
    ),
    ObservedReading(instrument=CONTROLLER, field="fast.memory_controller_utilization"),
    ObservedReading(instrument=PCIE, field="rare.pcie_transmitted_bytes_per_s", fixed=_SENT),
    ObservedReading(instrument=PCIE, field="rare.pcie_received_bytes_per_s", fixed=_RECEIVED),
)
"""Everything that is observed of a GPU's snapshot."""

ENERGY_USES: Final = (("requests_j", "requests"), ("idle_j", "idle"), ("unattributed_j", "unattributed"))
"""Fields of the split of a device's energy, and the value of ``llamatelemetry.gpu.energy.use`` for each."""

GPU_METRICS: Final = (*dict.fromkeys(row.instrument for row in OBSERVED), ENERGY_SPLIT)
"""The instruments of GPUs."""
