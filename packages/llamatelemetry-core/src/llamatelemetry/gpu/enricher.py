"""What GPUs did for a request, as attributes of its span.

Nothing happens on the request's path: the ledger has watched the request since it was sent to its
backend. Here, in the recorder's thread, the outcome is waited for, which comes with the next sample
after the request's end, and a whole sample's worth of records waits together.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamatelemetry.gpu.use import GPUUse
from llamatelemetry.inference.record import FinishedRecord, Opening
from llamatelemetry.inference.sink import AttributeValue
from llamatelemetry.semconv.gpu import GPUFacts, gpu_attributes


class GPUSpanEnricher:
    """Implements :class:`~llamatelemetry.inference.sink.SpanEnricher` over what the ledger kept.

    ``init()`` adds one where there is a GPU.

    Args:
        patience_s: Most seconds that one record may wait for its outcome.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s

    def on_start(self, opening: Opening) -> None:
        """Nothing to do: the ledger begins with the dispatch."""

    def on_finish(self, record: FinishedRecord) -> Mapping[str, AttributeValue]:
        """Waits for the outcome and names it."""
        use = None if record.hardware is None else record.hardware.wait(self._patience_s)
        return gpu_attributes(facts_of(use)) if isinstance(use, GPUUse) else {}


def facts_of(use: GPUUse) -> GPUFacts:
    """The facts that the tables of names are keyed on."""
    return GPUFacts(
        ids=tuple(each.device.uuid for each in use.devices),
        names=tuple(each.device.name for each in use.devices),
        scope=None if use.energy_j is None else use.energy_scope,
        memory_before_bytes=use.memory_before_bytes,
        memory_delta_bytes=use.memory_delta_bytes,
        memory_peak_bytes=use.memory_peak_bytes,
        process_memory_bytes=use.process_memory_bytes,
        utilization=use.utilization,
        energy_j=use.energy_j,
        energy_idle_j=use.idle_j,
        energy_method=use.energy_method,
        energy_uncertainty_j=use.energy_uncertainty_j,
        temperature_max_c=use.temperature_max_c,
        throttle_reasons=use.throttle_reasons,
    )
