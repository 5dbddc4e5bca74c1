"""Names of what torch's allocator holds of GPU memory, beside NVML's in ``semconv.gpu``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.profiles import mapping_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchMemoryFacts:
    """What torch's caching allocator says at the end of a request, of the model's GPUs together.

    Attributes:
        allocated_bytes: Bytes of living tensors.
        reserved_bytes: Bytes that the allocator has from the driver, used or not.
        peak_bytes: Most bytes of living tensors since the process began, or since the application reset it.
    """

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    peak_bytes: int | None = None


TORCH_MEMORY: Final = (
    Attribute(
        "llamatelemetry.torch.memory.allocated",
        "int",
        "allocated_bytes",
        "GPU memory of torch's living tensors at its end.",
        unit="By",
    ),
    Attribute(
        "llamatelemetry.torch.memory.reserved",
        "int",
        "reserved_bytes",
        "GPU memory that torch's allocator has from the driver at its end, used or not.",
        unit="By",
    ),
    Attribute(
        "llamatelemetry.torch.memory.peak",
        "int",
        "peak_bytes",
        "Most GPU memory of torch's tensors since the process began, or since torch's figure was reset.",
        unit="By",
    ),
)
"""On an inference span, with any profile, where torch ran the model on GPUs."""

torch_memory_attributes: Final = mapping_of(TORCH_MEMORY)
"""From :class:`TorchMemoryFacts` to the attributes of an inference span."""
