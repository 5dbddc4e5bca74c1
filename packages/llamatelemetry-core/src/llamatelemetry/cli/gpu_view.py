"""GPUs as people look at them: a table with bars, or with the curves of the last minute, and lines for logs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from llamatelemetry.cli.gpu_figures import GPUFigures
from llamatelemetry.cli.gpu_words import Notes, Words, short_uuid
from llamatelemetry.cli.sparkline import bar, binned, sparkline
from llamatelemetry.gpu.device import DriverStatus, GPUDevice
from llamatelemetry.gpu.snapshot import Sample
from llamatelemetry.gpu.visible import VISIBLE_VARIABLE

CURVE_S: Final = 60
"""Seconds that a curve shows."""
STALE_S: Final = 2.0
"""Readings that are older are told as old: the driver hangs."""

_TITLES: Final = (("", "GPU", "memory", "util", "power", "temp, energy"), ("", "UUID", "", "", "", "SM/mem clock"))
_BRANCH: Final = "  "
_BESIDE_DRAWINGS: Final = 28
"""Columns that everything but names and drawings takes."""
_NARROWEST: Final = 9
_WIDEST: Final = 40
_ROOMY: Final = 72

Row = tuple[Text, Text, Text, Text, Text, Text]


class GPUTable:
    """GPUs, to be printed on a rich console of any width.

    Args:
        driver: The driver.
        gpus: What to show of each, each GPU followed by its MIG instances.
        curves: Samples of each by UUID, oldest first, for curves of the last minute; None for bars of now.
        now_ns: The moment, on the clock of the samples.
        processes: Whether to list processes.
    """

    def __init__(
        self,
        driver: DriverStatus,
        gpus: Sequence[GPUFigures],
        *,
        curves: Mapping[str, Sequence[Sample]] | None = None,
        now_ns: int = 0,
        processes: bool = False,
    ) -> None:
        self._driver = driver
        self._gpus = gpus
        self._curves = curves
        self._now_ns = now_ns
        self._processes = processes
        self._names = {gpu.device.uuid: gpu.device.name for gpu in gpus}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        notes = Notes(ascii_only=options.ascii_only)
        cells = min(max((options.max_width - _BESIDE_DRAWINGS - self._longest()) // 3, _NARROWEST), _WIDEST)
        table = Table.grid(padding=(0, 2 if options.max_width >= _ROOMY else 1, 0, 0))
        for folds in (False, True, False, False, False, True):
            table.add_column(no_wrap=not folds, overflow="fold")
        for titles in _TITLES:
            table.add_row(*titles, style="dim")
        for gpu in self._gpus:
            for row in self._rows(gpu, cells, notes):
                table.add_row(*row)
        yield from self._head()
        yield table
        yield Text(self._legend(), "dim")
        yield from notes.lines()

    def _head(self) -> Iterator[Text]:
        yield Text(describe(self._driver), "dim")
        if self._driver.fix:
            yield Text(f"{self._driver.message}: {self._driver.fix}", "red")
        oldest_s = max((gpu.age_s for gpu in self._gpus if not gpu.lost), default=0.0)
        if oldest_s > STALE_S:
            yield Text(f"the driver has not answered for {oldest_s:.0f} s: the figures are as old", "yellow")

    def _longest(self) -> int:
        """Length of the longest name, or UUID as it is shown; losing a GPU must not change it."""
        shown = (
            text
            for device in (gpu.device for gpu in self._gpus)
            for text in (f"{self._name(device)} lost", self._indent(device) + short_uuid(device.uuid, self._names))
        )
        return max(map(len, shown), default=0)

    def _indent(self, device: GPUDevice) -> str:
        return _BRANCH if device.parent_uuid in self._names else ""

    def _name(self, device: GPUDevice) -> str:
        """Its name; of a MIG instance under its GPU, what is not the GPU's."""
        parent = self._names.get(device.parent_uuid or "")
        return device.name if parent is None else _BRANCH + device.name.removeprefix(f"{parent} ")

    def _legend(self) -> str:
        if self._curves is None:
            return "energy: since the driver was loaded"
        return f"energy: since watching began; curves: the last {CURVE_S} s"

    def _rows(self, gpu: GPUFigures, cells: int, notes: Notes) -> Iterator[Row]:
        words, device = Words(gpu, notes), gpu.device
        indent = self._indent(device)
        name = Text(self._name(device), "" if indent else "bold")
        if gpu.lost:
            name.append(" lost", "bold red")
        yield (
            Text("" if indent else str(device.index)),
            name,
            Text(words.memory()),
            Text(words.utilization()),
            Text(words.power()),
            Text(f"{words.temperature()} {words.energy(watched=self._curves is not None)}"),
        )
        uuid = Text(indent + short_uuid(device.uuid, self._names), "dim")
        clocks, throttling = words.clocks(), words.throttling()
        if gpu.values["throttle_reasons"] is None:
            clocks, throttling = f"{clocks} {throttling}", ""
        yield Text(), uuid, *self._drawings(gpu, cells, ascii_only=notes.ascii_only), Text(clocks)
        if throttling:
            yield Text(), Text(), Text(), Text(), Text(), Text(throttling, "yellow")
        if self._processes:
            for who, memory, utilization in words.processes():
                yield Text(), Text(f"  {indent}{who}"), Text(memory), Text(utilization), Text(), Text()

    def _drawings(self, gpu: GPUFigures, cells: int, *, ascii_only: bool) -> tuple[Text, Text, Text]:
        if self._curves is None:
            memory, utilization, power = (
                "" if share is None else bar(share, cells, ascii_only=ascii_only) for share in shares_of_now(gpu)
            )
        else:
            samples = self._curves.get(gpu.device.uuid, ())
            memory, utilization, power = (
                sparkline(curve, ascii_only=ascii_only)
                for curve in shares_of_last_minute(gpu, samples, now_ns=self._now_ns, cells=cells)
            )
        return Text(memory, "cyan"), Text(utilization, "cyan"), Text(power, "cyan")


def shares_of_now(gpu: GPUFigures) -> tuple[float | None, float | None, float | None]:
    """Memory, utilization and power, each as a share of the most that there can be."""
    values = gpu.values
    return (
        _share(values["memory_used_bytes"], values["memory_total_bytes"]),
        values["utilization"],
        _share(values["power_w"], values["power_limit_w"]),
    )


def shares_of_last_minute(
    gpu: GPUFigures, samples: Sequence[Sample], *, now_ns: int, cells: int
) -> tuple[Sequence[float | None], Sequence[float | None], Sequence[float | None]]:
    """The same over time; power that has no limit as a share of the most that was drawn meanwhile.

    Args:
        gpu: The GPU.
        samples: Its samples, oldest first.
        now_ns: The moment at which the curve ends.
        cells: How many shares.
    """
    total, limit = gpu.values["memory_total_bytes"], gpu.values["power_limit_w"]
    most_w = limit or max((sample.fast.power_w or 0.0 for sample in samples), default=0.0)
    memory, utilization, power = (
        binned(
            zip((sample.monotonic_ns for sample in samples), shares, strict=True),
            end_ns=now_ns,
            span_ns=CURVE_S * 1_000_000_000,
            cells=cells,
        )
        for shares in (
            [_share(sample.fast.memory_used_bytes, total) for sample in samples],
            [sample.fast.utilization for sample in samples],
            [_share(sample.fast.power_w, most_w) for sample in samples],
        )
    )
    return memory, utilization, power


def line(gpu: GPUFigures, time: str, notes: Notes, *, others: Collection[str], processes: bool = False) -> str:
    """One GPU in one line, for what is no terminal.

    Args:
        gpu: What to show.
        time: When.
        notes: Where reasons are noted.
        others: UUIDs to tell it from; its own may be among them.
        processes: Whether to list processes.
    """
    device = gpu.device
    who = f"{time} {device.label} {short_uuid(device.uuid, others)} {device.name}:"
    if gpu.lost:
        return f"{who} lost"
    words = Words(gpu, notes)
    throttling = words.throttling()
    parts = (
        f"memory {words.memory()}",
        f"util {words.utilization()}",
        f"power {words.power()}",
        f"temp {words.temperature()}",
        f"clocks {words.clocks()}",
        f"energy {words.energy(watched=True)}",
        *([f"throttled {throttling}"] if throttling else []),
        *([" ".join(each).rstrip() for each in words.processes()] if processes else []),
    )
    return f"{who} {', '.join(parts)}"


def describe(driver: DriverStatus) -> str:
    """The driver in one line."""
    parts = [f"driver {driver.driver_version or 'of unknown version'}"]
    if driver.cuda_version:
        parts.append(f"CUDA up to {driver.cuda_version}")
    if driver.hidden:
        parts.append(f"{VISIBLE_VARIABLE} hides {driver.hidden} more")
    return ", ".join(parts)


def _share(value: float | None, most: float | None) -> float | None:
    return None if value is None or not most else value / most
