"""GPU memory as torch's allocator sees it, on the spans of what torch ran.

NVML tells what a process holds of a GPU. torch holds more than its tensors take, and gives it back
to nobody but itself: what is reserved, and what of it is allocated, only its allocator knows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from llamatelemetry.inference.record import FinishedRecord, Opening
from llamatelemetry.inference.sink import AttributeValue
from llamatelemetry.semconv.torch_memory import TorchMemoryFacts, torch_memory_attributes
from llamatelemetry.transformers.cuda_names import device_names
from llamatelemetry.transformers.described_model import PROVIDER


class TorchMemoryEnricher:
    """Implements :class:`~llamatelemetry.inference.sink.SpanEnricher` over ``torch.cuda.memory_stats``.

    It says nothing where torch is not loaded, has not touched a GPU, or did not run the model.
    """

    def on_start(self, opening: Opening) -> None:
        """Nothing to do: the figures are those at the request's end."""

    def on_finish(self, record: FinishedRecord) -> Mapping[str, AttributeValue]:
        """Reads the allocator's books, which are in memory; no kernel is waited for."""
        if record.model.provider != PROVIDER or not record.model.in_process:
            return {}
        facts = torch_memory(record.model.gpus)
        return {} if facts is None else torch_memory_attributes(facts)


def torch_memory(gpus: tuple[str, ...] | None = None) -> TorchMemoryFacts | None:
    """What torch's allocator holds on some GPUs together.

    Args:
        gpus: Their UUIDs; all that torch sees when None.

    Returns:
        None where torch is not loaded, is built without CUDA, or has not used a GPU yet.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    try:
        if not torch.cuda.is_initialized():  # Asking for figures would take hold of a GPU.
            return None
        seen = range(torch.cuda.device_count())
        devices = [index for index in seen if gpus is None or not set(gpus).isdisjoint(device_names(index))]
        books = [torch.cuda.memory_stats(device) for device in devices]
    except (
        AssertionError,
        AttributeError,
        RuntimeError,
        ValueError,
    ):  # What a build without CUDA answers, or a lost GPU.
        return None
    if not any(books):  # Without CUDA each is empty.
        return None

    def total(name: str) -> int:
        return sum(int(book.get(name, 0)) for book in books)

    return TorchMemoryFacts(
        allocated_bytes=total("allocated_bytes.all.current"),
        reserved_bytes=total("reserved_bytes.all.current"),
        peak_bytes=total("allocated_bytes.all.peak"),
    )
