"""``llamatelemetry gpu``: what the GPUs do, now or for as long as one looks."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import click
from rich.console import Console
from rich.live import Live

from llamatelemetry.cli.gpu_figures import GPUFigures, figures_of, object_of
from llamatelemetry.cli.gpu_view import CURVE_S, GPUTable, line
from llamatelemetry.cli.gpu_words import Notes
from llamatelemetry.cli.output import console, examples, json_option, print_json, progress_console
from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.errors import GPUUnavailableError
from llamatelemetry.gpu.device import DriverState
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.gpu.sampler import GPUSampler
from llamatelemetry.gpu.snapshot import Sample, Tick

_SAMPLE_S: Final = 0.2
"""Seconds between two samples while watching: many for a cell of a curve, few for the driver."""
_KEPT_S: Final = CURVE_S * 1.5
"""Curves begin at the full cell before the last minute."""
_INTERVAL_S: Final = 1.0


@click.command(
    epilog=examples(
        "llamatelemetry gpu",
        "llamatelemetry gpu --processes",
        "llamatelemetry gpu --watch",
        "llamatelemetry gpu --watch --interval 10 >> gpus.log",
        "llamatelemetry gpu --json | jq '.gpus[] | {uuid, memory_used_bytes, power_w}'",
        "llamatelemetry gpu --watch --json | jq -c '[.time, .gpus[].utilization]'",
        "CUDA_VISIBLE_DEVICES=1 llamatelemetry gpu",
    )
)
@click.option("-w", "--watch", is_flag=True, help="Go on until Ctrl-C, with curves of the last minute.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=_SAMPLE_S, max=3600),
    metavar="SECONDS",
    help=f"Time between two views, with --watch.  [default: {_INTERVAL_S:g}]",
)
@click.option("-p", "--processes", is_flag=True, help="List the processes that compute on each GPU.")
@json_option
def gpu(*, watch: bool, interval_s: float | None, processes: bool, as_json: bool) -> None:
    """Show what the GPUs do: memory, utilization, power, energy, temperature, clocks.

    MIG instances are listed under their GPU. What a device does not tell is a dash with a footnote
    that says why; with --json it is null, and `absent` has the reason. Only the GPUs that
    CUDA_VISIBLE_DEVICES leaves are shown, and the UUIDs are as long as that variable needs them.

    --watch redraws a terminal, and writes one line a GPU to anything else; with --json each view is
    one object in one line. Energy is then counted from when watching began.

    Exit code 1 where no GPU can be read, with what to do about it.
    """
    if interval_s is not None and not watch:
        raise click.UsageError("--interval is the time between two views: give --watch too.")
    with _log_off(), _opened(everything=processes or as_json) as gpus:
        if not watch:
            _show_once(gpus, processes=processes, as_json=as_json)
            return
        out = console()
        with gpus.sampler.subscribe(gpus.take):
            beats = _beats(_INTERVAL_S if interval_s is None else interval_s)
            if as_json:
                _print_objects(gpus, beats)
            elif sys.stdout.isatty() and out.is_terminal and not out.is_dumb_terminal:
                _redraw(gpus, beats, out, processes=processes)
            else:
                _print_lines(gpus, beats, out, processes=processes)


class _GPUs:
    """The GPUs as this verb reads them."""

    def __init__(self) -> None:
        self.reader: Nvml = Nvml()
        self.sampler: GPUSampler = GPUSampler(self.reader, interval_s=_SAMPLE_S, retention_s=_KEPT_S)
        self._absences: Mapping[str, Mapping[str, str]] = {}

    def take(self, _tick: Tick | None = None) -> None:
        """Notes why figures are absent; called by whoever reads, because nobody else may ask the reader."""
        self._absences = {device.uuid: self.reader.absences(device) for device in self.reader.devices}

    def figures(self, *, watched: bool) -> list[GPUFigures]:
        now_ns = SYSTEM_CLOCK.monotonic_ns()
        return [
            figures_of(snapshot, self._absences.get(snapshot.device.uuid, {}), now_ns=now_ns, watched=watched)
            for snapshot in self.sampler.snapshots()
        ]

    def curves(self, now_ns: int) -> dict[str, Sequence[Sample]]:
        start_ns = now_ns - round(_KEPT_S * 1e9)
        return {
            device.uuid: self.sampler.history(device.uuid).between(start_ns, now_ns) for device in self.sampler.devices
        }


@contextmanager
def _opened(*, everything: bool) -> Iterator[_GPUs]:
    """The GPUs, read once.

    Raises:
        GPUUnavailableError: There is none to read.
    """
    gpus = _GPUs()
    try:
        gpus.sampler.tick(everything=everything)
        status = gpus.reader.status
        if status.state is not DriverState.READY:
            raise GPUUnavailableError(status.state.value, status.message, status.fix)
        gpus.take()
        yield gpus
    finally:
        gpus.sampler.close()


@contextmanager
def _log_off() -> Iterator[None]:
    """Keeps the sampler's log from being written across what is shown, which says the same."""
    logger = logging.getLogger("llamatelemetry.gpu")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _show_once(gpus: _GPUs, *, processes: bool, as_json: bool) -> None:
    figures = gpus.figures(watched=False)
    if as_json:
        print_json(object_of(gpus.reader.status, figures))
    else:
        console().print(GPUTable(gpus.reader.status, figures, processes=processes))


def _print_objects(gpus: _GPUs, beats: Iterable[None]) -> None:
    for _ in beats:
        click.echo(json.dumps(object_of(gpus.reader.status, gpus.figures(watched=True))))


def _print_lines(gpus: _GPUs, beats: Iterable[None], out: Console, *, processes: bool) -> None:
    notes, remarks = Notes(ascii_only=out.options.ascii_only), progress_console()
    for _ in beats:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        shown = gpus.figures(watched=True)
        uuids = [figures.device.uuid for figures in shown]
        for figures in shown:
            out.print(line(figures, time, notes, others=uuids, processes=processes), soft_wrap=True)
        for note in notes.lines():
            remarks.print(note, soft_wrap=True)


def _redraw(gpus: _GPUs, beats: Iterable[None], out: Console, *, processes: bool) -> None:
    with Live(console=out, auto_refresh=False) as live:
        for _ in beats:
            now_ns = SYSTEM_CLOCK.monotonic_ns()
            table = GPUTable(
                gpus.reader.status,
                gpus.figures(watched=True),
                curves=gpus.curves(now_ns),
                now_ns=now_ns,
                processes=processes,
            )
            live.update(table, refresh=True)


def _beats(interval_s: float) -> Iterator[None]:
    """Now, and each interval from now; those that pass while something is shown are left out."""
    interval_ns = round(interval_s * 1e9)
    due_ns = SYSTEM_CLOCK.monotonic_ns()
    while True:
        yield
        missed = max(0, SYSTEM_CLOCK.monotonic_ns() - due_ns) // interval_ns
        due_ns += (missed + 1) * interval_ns
        SYSTEM_CLOCK.sleep(max(0, due_ns - SYSTEM_CLOCK.monotonic_ns()) / 1e9)
