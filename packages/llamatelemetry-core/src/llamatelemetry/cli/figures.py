"""One line of figures for one answer, and how figures are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

_GAP: Final = "   "


class Answer(Protocol):
    """What is read of an :class:`llamatelemetry.InferenceResult`; None is unknown."""

    @property
    def input_tokens(self) -> int | None:
        """Prompt tokens."""
        ...

    @property
    def output_tokens(self) -> int | None:
        """Generated tokens."""
        ...

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that came from the cache."""
        ...

    @property
    def ttft_ms(self) -> float | None:
        """Time to the first token, in milliseconds."""
        ...

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first, in milliseconds."""
        ...

    @property
    def tps(self) -> float | None:
        """Output tokens a second."""
        ...


@dataclass(frozen=True, slots=True)
class Figures:
    """An answer's figures, to be printed on a rich console. Unknown ones are shown as a dash."""

    answer: Answer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        answer, unknown = self.answer, "-" if options.ascii_only else "\N{EN DASH}"
        pairs = (
            ("TTFT", _milliseconds(answer.ttft_ms, unknown)),
            ("TPOT", _milliseconds(answer.tpot_ms, unknown)),
            ("tok/s", unknown if answer.tps is None else f"{answer.tps:.1f}"),
            ("tokens in", _count(answer.input_tokens, unknown)),
            ("out", _count(answer.output_tokens, unknown)),
            ("cached", _count(answer.cached_tokens, unknown)),
        )
        yield from _packed([Text.assemble((f"{label} ", "dim"), (figure, "bold")) for label, figure in pairs], options)


def _packed(items: Iterable[Text], options: ConsoleOptions) -> Iterator[Text]:
    """Items side by side, and on a new line where the next would not fit whole."""
    line = Text()
    for item in items:
        if line and line.cell_len + len(_GAP) + item.cell_len > options.max_width:
            yield line
            line = Text()
        line.append_text(Text.assemble(_GAP, item) if line else item)
    yield line


def format_duration(nanoseconds: int) -> str:
    """A duration in three digits, for example ``412 ms``.

    Args:
        nanoseconds: The duration.
    """
    milliseconds = nanoseconds / 1e6
    if milliseconds < 9.995:  # The limits are where rounding would add a digit.
        return f"{milliseconds:.2f} ms"
    if milliseconds < 99.95:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 99_995:
        return f"{milliseconds / 1e3:.2f} s"
    return f"{milliseconds / 1e3:.0f} s"


def _milliseconds(value: float | None, unknown: str) -> str:
    return unknown if value is None else format_duration(round(value * 1e6))


def _count(value: int | None, unknown: str) -> str:
    return unknown if value is None else f"{value:,}"
