"""How a GPU's figures are written for people, and the footnotes that say why one is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from rich.text import Text

from llamatelemetry.cli.gpu_figures import GPUFigures
from llamatelemetry.gpu.device import GPUProcess

_UUID_SHOWN: Final = len("GPU-") + 8
_SUPERSCRIPT: Final = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_GIB: Final = 2**30
_LABELS: Final = {
    "memory_used_bytes": "memory",
    "memory_total_bytes": "size of memory",
    "power_w": "power",
    "power_limit_w": "power limit",
    "energy_mj": "energy",
    "energy_j": "energy",
    "temperature_c": "temperature",
    "sm_clock_mhz": "clocks",
    "memory_clock_mhz": "clocks",
    "throttle_reasons": "throttling",
    "processes.utilization": "utilization of processes",
    "processes.memory_bytes": "memory of processes",
}
_MEMORY_HIDDEN: Final = "the driver does not tell it, as in some containers"


class Notes:
    """Footnotes: each reason has one number, however often and of whatever it is the reason.

    Args:
        ascii_only: The terminal knows ASCII only.

    Attributes:
        ascii_only: As given.
    """

    def __init__(self, *, ascii_only: bool) -> None:
        self.ascii_only = ascii_only
        self._figures: dict[str, list[str]] = {}
        self._told = 0

    def mark(self, figure: str, reason: str) -> str:
        """What stands in the place of a figure that is absent.

        Args:
            figure: Its name.
            reason: Why.
        """
        label, figures = _LABELS.get(figure, figure), self._figures.setdefault(reason, [])
        if label not in figures:
            figures.append(label)
        dash = "-" if self.ascii_only else "\N{EN DASH}"
        return dash + self._number(list(self._figures).index(reason) + 1)

    def lines(self) -> Iterator[Text]:
        """The notes that were not told yet."""
        for number, (reason, figures) in enumerate(self._figures.items(), start=1):
            if number > self._told:
                yield Text(f"{self._number(number)} {', '.join(figures)}: {reason}", "dim")
        self._told = len(self._figures)

    def _number(self, number: int) -> str:
        return f"({number})" if self.ascii_only else str(number).translate(_SUPERSCRIPT)


class Words:
    """The figures of one GPU in words, a dash with its footnote for each that is absent.

    Args:
        gpu: The figures.
        notes: Where reasons are noted.
    """

    def __init__(self, gpu: GPUFigures, notes: Notes) -> None:
        self._gpu = gpu
        self._notes = notes
        self._degree = "C" if notes.ascii_only else "°C"

    def memory(self) -> str:
        """Used and there is."""
        return self._pair("memory_used_bytes", "memory_total_bytes", ".1f", "GiB", unit=_GIB)

    def utilization(self) -> str:
        """Share of the time in which a kernel ran."""
        return self._one("utilization", ".0f", "%", unit=0.01)

    def power(self) -> str:
        """Drawn and limit."""
        return self._pair("power_w", "power_limit_w", ".0f", "W")

    def temperature(self) -> str:
        """Temperature."""
        return self._one("temperature_c", ".0f", self._degree)

    def clocks(self) -> str:
        """Of multiprocessors and of memory."""
        return self._pair("sm_clock_mhz", "memory_clock_mhz", ".0f", "MHz")

    def energy(self, *, watched: bool) -> str:
        """Since watching began, or else since the driver was loaded."""
        name, unit_j = ("energy_j", 1.0) if watched else ("energy_mj", 1e-3)
        value = self._gpu.values[name]
        return self._absent(name) if value is None else format_energy(value * unit_j)

    def throttling(self) -> str:
        """Why clocks are held down; empty for not."""
        reasons = self._gpu.values["throttle_reasons"]
        return self._absent("throttle_reasons") if reasons is None else ", ".join(reasons)

    def processes(self) -> Iterator[tuple[str, str, str]]:
        """Of each process: who it is, its memory, its utilization."""
        processes: tuple[GPUProcess, ...] | None = self._gpu.values["processes"]
        if not processes:
            yield "no process" if processes is not None else f"processes {self._absent('processes')}", "", ""
            return
        for process in processes:
            memory, share = process.memory_bytes, process.utilization
            yield (
                f"pid {process.pid}",
                self._absent("processes.memory_bytes", _MEMORY_HIDDEN)
                if memory is None
                else f"{memory / _GIB:.1f} GiB",
                self._absent("processes.utilization") if share is None else f"{share * 100:.0f} %",
            )

    def _one(self, name: str, form: str, symbol: str, *, unit: float = 1) -> str:
        value = self._gpu.values[name]
        return self._absent(name) if value is None else f"{value / unit:{form}} {symbol}"

    def _pair(self, name: str, other: str, form: str, symbol: str, *, unit: float = 1) -> str:
        """Both over one unit; one dash where neither is told."""
        values = self._gpu.values[name], self._gpu.values[other]
        if values == (None, None) or (values[0] is None and self._gpu.lost):
            return self._absent(name)
        told = (
            self._absent(figure) if value is None else f"{value / unit:{form}}"
            for figure, value in zip((name, other), values, strict=True)
        )
        return f"{'/'.join(told)} {symbol}"

    def _absent(self, figure: str, otherwise: str = "the driver does not tell it") -> str:
        return self._notes.mark(figure, self._gpu.absent.get(figure, otherwise))


def short_uuid(uuid: str, others: Collection[str]) -> str:
    """As much of a UUID as names one GPU, in ``CUDA_VISIBLE_DEVICES`` too: mostly its first eight digits.

    Args:
        uuid: The whole one.
        others: UUIDs to tell it from; itself may be among them.
    """
    short = uuid[:_UUID_SHOWN]
    return uuid if any(other.startswith(short) for other in others if other != uuid) else short


def format_energy(joules: float) -> str:
    """Energy in three digits, for example ``12.3 kJ``.

    Args:
        joules: The energy.
    """
    value, symbol = joules, "J"
    for larger in ("kJ", "MJ", "GJ"):
        if value < 999.5:  # The limits are where rounding would add a digit.
            break
        value, symbol = value / 1e3, larger
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {symbol}"
