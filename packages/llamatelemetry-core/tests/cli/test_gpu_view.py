"""The table of GPUs where a driver is at its worst, and what curves are made of. No GPU and no driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from llamatelemetry.cli.gpu_figures import GPUFigures, figures_of
from llamatelemetry.cli.gpu_view import GPUTable, line, shares_of_last_minute
from llamatelemetry.cli.gpu_words import Notes
from llamatelemetry.gpu.device import DriverState, DriverStatus, FastReading, GPUDevice
from llamatelemetry.gpu.snapshot import GPUSnapshot, Sample

SECOND = 1_000_000_000
READY = DriverStatus(state=DriverState.READY, message="1 GPU can be read", driver_version="550.54.15")
DEVICE = GPUDevice(index=0, uuid="GPU-0", name="GPU", memory_total_bytes=100, power_limit_w=200.0)


def figures(device: GPUDevice = DEVICE, *, now_ns: int = SECOND) -> GPUFigures:
    return figures_of(GPUSnapshot(device=device, monotonic_ns=SECOND), {}, now_ns=now_ns, watched=True)


def printed(table: GPUTable) -> list[str]:
    console = Console(width=100, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def samples(powers: Sequence[float]) -> list[Sample]:
    return [
        Sample(uuid="GPU-0", monotonic_ns=second * SECOND, fast=FastReading(power_w=power, memory_used_bytes=25))
        for second, power in enumerate(powers)
    ]


def test_readings_that_are_old_are_said_to_be() -> None:
    told = "the driver has not answered for 9 s: the figures are as old"
    assert told not in printed(GPUTable(READY, [figures()]))
    assert told in printed(GPUTable(READY, [figures(now_ns=10 * SECOND)]))


def test_a_driver_that_is_gone_is_said_to_be_with_what_to_do() -> None:
    gone = replace(READY, state=DriverState.LOST, message="the GPU does not answer any more", fix="reboot")
    assert printed(GPUTable(gone, [figures()]))[1] == "the GPU does not answer any more: reboot"


def test_curves_are_shares_of_what_there_is_and_power_without_a_limit_of_the_most_that_was_drawn() -> None:
    taken = samples([50, 100, 150])
    memory, utilization, power = shares_of_last_minute(figures(), taken, now_ns=2 * SECOND, cells=60)
    assert list(memory) == [None] * 57 + [0.25] * 3
    assert list(utilization) == [None] * 60
    assert list(power)[-3:] == [0.25, 0.5, 0.75]
    unlimited = figures(replace(DEVICE, power_limit_w=None))
    *_, power = shares_of_last_minute(unlimited, taken, now_ns=2 * SECOND, cells=60)
    assert list(power)[-3:] == [pytest.approx(share) for share in (1 / 3, 2 / 3, 1)]


def test_a_line_names_its_gpu_by_as_much_of_its_uuid_as_no_other_has() -> None:
    halves = [replace(DEVICE, uuid=f"MIG-12345678-{half}", parent_uuid="GPU-0") for half in "ab"]
    lines = [
        line(figures(half), "now", Notes(ascii_only=False), others=[half.uuid for half in halves]) for half in halves
    ]
    assert [text.partition(":")[0] for text in lines] == [
        "now GPU 0 MIG MIG-12345678-a GPU",
        "now GPU 0 MIG MIG-12345678-b GPU",
    ]
    assert line(figures(halves[0]), "now", Notes(ascii_only=False), others=["MIG-8"]).startswith(
        "now GPU 0 MIG MIG-12345678 GPU: "
    )
