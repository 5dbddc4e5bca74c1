"""CPU time that measuring GPUs costs a request: on its own path, in the sampler's thread and in the recorder's.

Run: python benchmarks/gpu_enricher.py [--json]

Rounds of samples are made up, for one device and for eight, so that what is timed is the ledger and
the enricher alone; what reading devices costs is in gpu_sampler.py. The baseline is the same request
where nobody measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from report import Row, report

from llamatelemetry import InferenceRequest
from llamatelemetry.backends.protocol import ModelInfo, StreamEnd, Usage
from llamatelemetry.clock import SYSTEM_CLOCK, ManualClock
from llamatelemetry.gpu.device import FastReading, GPUDevice
from llamatelemetry.gpu.enricher import GPUSpanEnricher
from llamatelemetry.gpu.ledger import GPULedger
from llamatelemetry.gpu.snapshot import Sample, Tick
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.metering import PendingUse, current_meter, install_meter
from llamatelemetry.inference.record import FinishedRecord

REQUESTS = 5000
BATCH = 16
TOKENS = 4
REPEATS = 3
PATH_BUDGET_US = 5.0
INFO = ModelInfo(model="m", provider="llamacpp")
REQUEST = InferenceRequest(prompt="word " * 64)
END = StreamEnd(finish_reason="stop", usage=Usage(input_tokens=64, output_tokens=TOKENS, cached_tokens=0))


class Machine:
    """A ledger, and devices whose samples are made up."""

    def __init__(self, devices: int) -> None:
        self.devices = tuple(GPUDevice(index=index, uuid=f"GPU-{index}", name="none") for index in range(devices))
        self.clock = ManualClock()
        self.ledger = GPULedger(lambda: self.devices, dict, wake=lambda: None, patience_s=0.1, idle_power_w=10)
        self._ticks = 0
        self.tick()

    def tick(self) -> None:
        """A round of samples, a tenth of a second after the one before."""
        self.clock.advance(0.1)
        self._ticks += 1
        now = self.clock.now_ns()
        fast = FastReading(memory_used_bytes=10**9, utilization=0.9, power_w=70.0, energy_mj=7000 * self._ticks)
        samples = tuple(
            Sample(uuid=device.uuid, monotonic_ns=now, fast=fast, temperature_c=60, throttle_reasons=())
            for device in self.devices
        )
        self.ledger.on_tick(Tick(monotonic_ns=now, samples=samples))


def run_batch(machine: Machine) -> list[FinishedRecord]:
    """Requests that run together for two samples."""
    recorders = []
    pending: list[PendingUse | None] = []
    for _ in range(BATCH):
        recorder = EventRecorder(REQUEST, INFO, streaming=False, queue_depth=0, clock=machine.clock.clock)
        recorder.queued(64)
        recorder.dispatched()
        pending.append(machine.ledger.begin(recorder))
        recorders.append(recorder)
    for _ in range(TOKENS):
        machine.clock.advance(0.02)
        for recorder in recorders:
            recorder.token()
    machine.tick()
    return [
        recorder.finish(END, text="", hardware=hardware) for recorder, hardware in zip(recorders, pending, strict=True)
    ]


def least(measure: Callable[[], float]) -> float:
    """The least of several runs: noise on a shared machine only ever adds."""
    return min(measure() for _ in range(REPEATS))


def path_us(*, measured: bool) -> float:
    """Microseconds of the request's own thread: showing it to whoever measures."""

    def run() -> float:
        machine = Machine(8)
        install_meter(machine.ledger if measured else None)
        recorders = [
            EventRecorder(REQUEST, INFO, streaming=False, queue_depth=0, clock=SYSTEM_CLOCK) for _ in range(REQUESTS)
        ]
        start = time.thread_time()
        for recorder in recorders:
            current_meter().begin(recorder)
        spent = time.thread_time() - start
        install_meter(None)
        return spent / REQUESTS * 1e6

    return least(run)


def tick_us(devices: int) -> float:
    """Microseconds of the sampler's thread per request that ran in two rounds, dividing included."""

    def run() -> float:
        machine = Machine(devices)
        spent = 0.0
        for _ in range(REQUESTS // BATCH):
            run_batch(machine)
            start = time.thread_time()
            machine.tick()
            spent += time.thread_time() - start
        return spent / (REQUESTS // BATCH * BATCH) * 1e6

    return least(run)


def enricher_us(devices: int) -> float:
    """Microseconds of the recorder's thread per record whose outcome is known."""
    machine = Machine(devices)
    records = [record for _ in range(REQUESTS // BATCH) for record in run_batch(machine)]
    machine.tick()
    enricher = GPUSpanEnricher(0.0)
    assert len(enricher.on_finish(records[0])) > 5
    bare = replace(records[0], hardware=None)
    assert enricher.on_finish(bare) == {}

    def run() -> float:
        start = time.thread_time()
        for record in records:
            enricher.on_finish(record)
        return (time.thread_time() - start) / len(records) * 1e6

    return least(run)


def main() -> None:
    """Measures, prints, and stops where the request's path costs more than was promised."""
    path = path_us(measured=True)
    report(
        "What measuring GPUs costs a request",
        [
            Row(
                name="request's path",
                value=path,
                unit="us CPU",
                baseline=path_us(measured=False),
                budget=f"<= {PATH_BUDGET_US:g}",
            ),
            *(
                Row(name=f"sampler's thread, {devices} device(s)", value=tick_us(devices), unit="us CPU")
                for devices in (1, 8)
            ),
            *(
                Row(name=f"recorder's thread, {devices} device(s)", value=enricher_us(devices), unit="us CPU")
                for devices in (1, 8)
            ),
        ],
    )
    assert path <= PATH_BUDGET_US


if __name__ == "__main__":
    main()
