"""CPU time that tracing a pipeline costs a training step and a stage, against the same loop without it.

Run: python benchmarks/pipeline_overhead.py [--json]

The loop's body is a sum over a list of floats, the same on both sides; what is reported is the difference.
Spans and metrics go to real files. CPU is of the whole process, exporting threads and the one that looks
at memory included.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

from report import Row, report

import llamatelemetry as lt

STEPS = 20_000
STAGES = 200
REPEATS = 5
WORK = [1 / number for number in range(1, 2001)]
BUDGET_US = 50.0
BUDGET_MEMORY_STEPS = 64


def bare_us() -> float:
    """Microseconds of CPU that one step of the bare loop takes."""
    start = time.process_time()
    for _ in range(STEPS):
        sum(WORK)
    return (time.process_time() - start) / STEPS * 1e6


def traced_us() -> float:
    """The same, with every step told to a stage."""
    with lt.PipelineTracer("bench") as tracer, tracer.stage("finetune") as stage:
        start = time.process_time()
        for _ in range(STEPS):
            stage.step(loss=sum(WORK), learning_rate=1e-3)
        spent = time.process_time() - start
    assert len(stage.steps.kept()) <= BUDGET_MEMORY_STEPS
    return spent / STEPS * 1e6


def stage_us() -> float:
    """Microseconds of CPU that an empty stage takes, from opening to the end of its span."""
    with lt.PipelineTracer("bench") as tracer:
        start = time.process_time()
        for _ in range(STAGES):
            with tracer.stage("nothing"):
                pass
        return (time.process_time() - start) / STAGES * 1e6


def least_of(measures: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The least of several rounds of each, taken in turn: noise on a shared machine only ever adds."""
    rounds = [{name: measure() for name, measure in measures.items()} for _ in range(REPEATS)]
    return {name: min(each[name] for each in rounds) for name in measures}


def main() -> None:
    """Measures without telemetry, then with it, and reports."""
    off = least_of({"bare": bare_us, "traced": traced_us, "stage": stage_us})
    with tempfile.TemporaryDirectory() as folder:
        lt.init(telemetry_dir=folder, gpu=False)
        on = least_of({"bare": bare_us, "traced": traced_us, "stage": stage_us})
        lt.shutdown()
    rows = [
        Row(name="step, without init()", value=off["traced"] - off["bare"], unit="us CPU", baseline=off["bare"]),
        Row(
            name="step, spans and metrics to files",
            value=on["traced"] - on["bare"],
            unit="us CPU",
            baseline=on["bare"],
            budget=f"<= {BUDGET_US:g} us",
        ),
        Row(name="empty stage, without init()", value=off["stage"], unit="us CPU"),
        Row(name="empty stage, spans and metrics to files", value=on["stage"], unit="us CPU"),
    ]
    report("What tracing adds to a training step of the bare loop's length", rows)
    assert on["traced"] - on["bare"] <= BUDGET_US


if __name__ == "__main__":
    main()
