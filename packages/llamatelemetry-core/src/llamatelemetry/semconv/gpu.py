"""Names of what GPUs did for a request or a section of code, and of the GPUs that a process has.

``llamatelemetry.gpu.*`` stands beside the names of any profile. The convention's ``hw.*`` are metrics
of a device as a whole; a span needs what happened within its own interval, and whose it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.profiles import mapping_of

GPUScope = Literal["process", "device"]
"""Whose energy and utilization a figure is: of the processes that serve, or of everything on the device."""

_IDS: Final = Attribute(
    "llamatelemetry.gpu.ids",
    "string[]",
    "ids",
    "UUIDs of the GPUs that it ran on.",
    requirement="conditionally_required",
    condition="if GPUs are read",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUFacts:
    """What GPUs did during one interval: a request, or a section of a user's code. Sums are over all of them.

    Attributes:
        ids: UUIDs of the GPUs, as ``hw.id`` on metrics.
        names: Their names, in the same order.
        scope: Whose energies these are; memory and utilization are always the device's.
        memory_before_bytes: Memory in use at the start, by whatever process.
        memory_delta_bytes: Memory in use at the end less that at the start; negative where it was freed.
        memory_peak_bytes: Most memory in use at any one time in between.
        process_memory_bytes: Memory that the processes that serve hold.
        utilization: Mean share of the time in which a kernel ran, 0 to 1, over the GPUs.
        energy_j: Energy above idle that is attributed to it, in joules.
        energy_idle_j: Energy that the GPUs would have taken idle; of a section, never of a request.
        energy_method: Where the energy comes from: ``counter``, ``counter_interpolated`` or ``power``.
        energy_uncertainty_j: How far ``energy_j`` may be off either way, in joules.
        temperature_max_c: Highest temperature of any of them.
        throttle_reasons: Why clocks were held down at any time in between; empty for never.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...] | None = None
    scope: GPUScope | None = None
    memory_before_bytes: int | None = None
    memory_delta_bytes: int | None = None
    memory_peak_bytes: int | None = None
    process_memory_bytes: int | None = None
    utilization: float | None = None
    energy_j: float | None = None
    energy_idle_j: float | None = None
    energy_method: str | None = None
    energy_uncertainty_j: float | None = None
    temperature_max_c: float | None = None
    throttle_reasons: tuple[str, ...] | None = None


GPU: Final = (
    _IDS,
    Attribute("llamatelemetry.gpu.names", "string[]", "names", "Their names, in the same order."),
    Attribute(
        "llamatelemetry.gpu.scope",
        "string",
        "scope",
        "Whose energy is shared out: process, of what serves it, or device, of all that runs there.",
    ),
    Attribute(
        "llamatelemetry.gpu.memory.before",
        "int",
        "memory_before_bytes",
        "GPU memory in use at its start, by whatever process.",
        unit="By",
    ),
    Attribute(
        "llamatelemetry.gpu.memory.delta",
        "int",
        "memory_delta_bytes",
        "GPU memory in use at its end less that at its start.",
        unit="By",
        signed=True,
    ),
    Attribute(
        "llamatelemetry.gpu.memory.peak",
        "int",
        "memory_peak_bytes",
        "Most GPU memory in use at any one time in between.",
        unit="By",
    ),
    Attribute(
        "llamatelemetry.gpu.process.memory",
        "int",
        "process_memory_bytes",
        "GPU memory that the processes that serve hold.",
        unit="By",
    ),
    Attribute(
        "llamatelemetry.gpu.utilization",
        "double",
        "utilization",
        "Mean share of the time in which a kernel ran, 0 to 1.",
        unit="1",
    ),
    Attribute(
        "llamatelemetry.gpu.energy",
        "double",
        "energy_j",
        "Energy above idle that is attributed to it.",
        unit="J",
    ),
    Attribute(
        "llamatelemetry.gpu.energy.method",
        "string",
        "energy_method",
        "Where the energy comes from: counter, counter_interpolated or power, which is added up.",
    ),
    Attribute(
        "llamatelemetry.gpu.energy.uncertainty",
        "double",
        "energy_uncertainty_j",
        "How far the energy may be off either way.",
        unit="J",
    ),
    Attribute(
        "llamatelemetry.gpu.temperature.max",
        "double",
        "temperature_max_c",
        "Highest temperature of any of them.",
        unit="Cel",
        signed=True,
    ),
    Attribute(
        "llamatelemetry.gpu.throttle_reasons",
        "string[]",
        "throttle_reasons",
        "Why clocks were held down at any time in between; empty for never.",
    ),
)
"""On an inference span, with any profile, where GPUs are read."""

GPU_SECTION: Final = (
    *GPU,
    Attribute(
        "llamatelemetry.gpu.energy.idle",
        "double",
        "energy_idle_j",
        "Energy that the GPUs would have taken idle.",
        unit="J",
    ),
)
"""On the span of a section of a user's code; requests share the idle energy, a section has it for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUResourceFacts:
    """The GPUs that a process sees.

    Attributes:
        count: How many; 0 for a driver that shows none, None where none could be asked.
        names: Their names, in CUDA's order.
        uuids: Their UUIDs, in the same order.
        memory_total_bytes: Memory of all of them together.
        driver_version: For example ``550.54.15``.
        cuda_version: Highest CUDA version that the driver runs.
    """

    count: int | None = None
    names: tuple[str, ...] | None = None
    uuids: tuple[str, ...] | None = None
    memory_total_bytes: int | None = None
    driver_version: str | None = None
    cuda_version: str | None = None


GPU_RESOURCE: Final = (
    Attribute("llamatelemetry.gpu.count", "int", "count", "GPUs that the process sees.", unit="{gpu}"),
    Attribute("llamatelemetry.gpu.names", "string[]", "names", "Their names, in CUDA's order."),
    Attribute("llamatelemetry.gpu.uuids", "string[]", "uuids", "Their UUIDs, in the same order."),
    Attribute(
        "llamatelemetry.gpu.memory.total",
        "int",
        "memory_total_bytes",
        "Memory of all of them together.",
        unit="By",
    ),
    Attribute("llamatelemetry.gpu.driver_version", "string", "driver_version", "Version of the driver."),
    Attribute(
        "llamatelemetry.gpu.cuda_version", "string", "cuda_version", "Highest CUDA version that the driver runs."
    ),
)
"""On the resource."""

gpu_attributes: Final = mapping_of(GPU)
"""From :class:`GPUFacts` to the attributes of an inference span."""

gpu_section_attributes: Final = mapping_of(GPU_SECTION)
"""From :class:`GPUFacts` to the attributes of a section's span."""

gpu_resource_attributes: Final = mapping_of(GPU_RESOURCE)
"""From :class:`GPUResourceFacts` to the attributes of the resource."""
