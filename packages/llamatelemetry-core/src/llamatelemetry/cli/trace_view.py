"""A finished trace as a tree, each span with its duration and its place on the time line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from rich.tree import Tree

from llamatelemetry.cli.figures import format_duration

_INDENT: Final = 4  # What rich's tree guides take for each level.
_GAP: Final = 2
_NARROWEST_BAR: Final = 10
_WIDEST_BAR: Final = 48


class SpanId(Protocol):
    """What is read of a span context."""

    @property
    def span_id(self) -> int:
        """The span's own id."""
        ...


class TraceSpan(Protocol):
    """What is read of a finished span; the OTel SDK's ``ReadableSpan`` has it all."""

    @property
    def name(self) -> str:
        """The span's name."""
        ...

    @property
    def context(self) -> SpanId:
        """Its own ids."""
        ...

    @property
    def parent(self) -> SpanId | None:
        """Its parent's ids."""
        ...

    @property
    def start_time(self) -> int | None:
        """Unix nanoseconds."""
        ...

    @property
    def end_time(self) -> int | None:
        """Unix nanoseconds."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any] | None:
        """Its attributes; ``error.type`` is shown."""
        ...


class TraceView:
    """A trace, to be printed on a rich console of any width.

    Args:
        spans: Finished spans of one trace, in any order. One whose parent is not among them is a root.
    """

    def __init__(self, spans: Iterable[TraceSpan]) -> None:
        # A phase that took no time at all comes before the one that starts where it ends.
        self._spans = sorted(spans, key=lambda span: (span.start_time or 0, span.end_time or 0))
        ids = {span.context.span_id for span in self._spans}
        self._roots: list[TraceSpan] = []
        self._children: dict[int, list[TraceSpan]] = {}
        for span in self._spans:
            if span.parent is None or span.parent.span_id not in ids:
                self._roots.append(span)
            else:
                self._children.setdefault(span.parent.span_id, []).append(span)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._spans:
            return
        drawing = _Drawing(self._spans, self._depths(), options)
        for root in self._roots:
            tree = Tree(drawing.line(root, 0), guide_style="dim")
            self._grow(tree, root, 1, drawing)
            yield tree

    def _grow(self, tree: Tree, span: TraceSpan, depth: int, drawing: _Drawing) -> None:
        for child in self._children.get(span.context.span_id, ()):
            self._grow(tree.add(drawing.line(child, depth)), child, depth + 1, drawing)

    def _depths(self) -> list[tuple[TraceSpan, int]]:
        depths, level = [], [(root, 0) for root in self._roots]
        while level:
            depths += level
            level = [
                (child, depth + 1) for span, depth in level for child in self._children.get(span.context.span_id, ())
            ]
        return depths


class _Drawing:
    """The widths and the time scale that all lines of one trace share."""

    def __init__(
        self, spans: Sequence[TraceSpan], depths: Sequence[tuple[TraceSpan, int]], options: ConsoleOptions
    ) -> None:
        self._ascii = options.ascii_only
        self._start = min(span.start_time or 0 for span in spans)
        self._length = max(1, max(span.end_time or 0 for span in spans) - self._start)
        self._figures = max(len(_duration(span)) for span in spans)
        names = max(_INDENT * depth + cell_len(_title(span)) for span, depth in depths)
        room = options.max_width - self._figures - 2 * _GAP
        self._names = min(names, max(room - _NARROWEST_BAR, 1))
        self._bar = min(room - self._names, _WIDEST_BAR)

    def line(self, span: TraceSpan, depth: int) -> Text:
        failed = _error(span) is not None
        name = Text(_title(span), "bold red" if failed else "bold" if depth == 0 else "", no_wrap=True)
        name.truncate(max(self._names - _INDENT * depth, 1), overflow="crop" if self._ascii else "ellipsis", pad=True)
        name.append(" " * _GAP + _duration(span).rjust(self._figures) + " " * _GAP, "not bold default")
        name.append(self._draw(span), "red" if failed else "cyan" if depth == 0 else "green")
        return name

    def _draw(self, span: TraceSpan) -> str:
        """A bar from the span's start to its end, to half a cell; spans that tile do so here too."""
        halves = 2 * self._bar
        if halves < 2:
            return ""
        first = min(self._half(span.start_time or 0), halves - 1)
        last = max(self._half(span.end_time or 0), first + 1)
        both, left, right = "=--" if self._ascii else "━╸╺"
        cells = []
        for cell in range(self._bar):
            on_left, on_right = first <= 2 * cell < last, first <= 2 * cell + 1 < last
            cells.append(both if on_left and on_right else left if on_left else right if on_right else " ")
        return "".join(cells).rstrip()

    def _half(self, moment: int) -> int:
        """The half cell that a moment is nearest to."""
        offset = min(max(moment - self._start, 0), self._length)
        return (2 * offset * 2 * self._bar + self._length) // (2 * self._length)


def _duration(span: TraceSpan) -> str:
    if span.start_time is None or span.end_time is None:
        return "?"
    return format_duration(max(span.end_time - span.start_time, 0))


def _error(span: TraceSpan) -> str | None:
    value = (span.attributes or {}).get("error.type")
    return None if value is None else str(value)


def _title(span: TraceSpan) -> str:
    error = _error(span)
    return span.name if error is None else f"{span.name} [{error}]"
