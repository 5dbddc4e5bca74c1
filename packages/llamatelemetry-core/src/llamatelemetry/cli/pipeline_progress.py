"""How far a pipeline is: a bar for each stage in a terminal, a line for each elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from llamatelemetry.cli.output import progress_console
from llamatelemetry.pipeline.progress import Progress as News

_ENDS: Final = {"reused": "was made before", "finished": "done", "failed": "failed", "interrupted": "interrupted"}


class PipelineBars:
    """Shows news of a pipeline on standard error. A context manager.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = progress_console()
        self._bars = self._console.is_terminal and not quiet
        self._lines = not self._bars and not quiet
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._bars,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, news: News) -> None:
        """Shows one piece of news."""
        title = f"{news.number}/{news.of} {news.stage}" if news.stage else "what is given"
        if self._lines and news.state in {"started", *_ENDS}:
            # Why one failed, or was made anew, is told in full when the command ends.
            self._console.print(f"{title} {_ENDS.get(news.state, '…')}")
        if not self._bars:
            return
        if news.stage not in self._tasks:
            self._tasks[news.stage] = self._progress.add_task(title, total=None, detail="")
        task = self._tasks[news.stage]
        if news.state in _ENDS:
            self._progress.update(task, total=1, completed=1, detail=_ENDS[news.state])
            self._progress.stop_task(task)
        elif news.state in {"working", "step"}:
            self._progress.update(task, total=news.total, completed=news.done or 0, detail=_detail(news))


def _detail(news: News) -> str:
    if news.state == "step":
        return f"step {news.done:g}" + ("" if news.loss is None else f", loss {news.loss:.4g}")
    if news.unit == "B":
        return decimal(int(news.done or 0)) + ("" if news.total is None else f" of {decimal(int(news.total))}")
    return f"{news.done:g}" + ("" if news.total is None else f"/{news.total:g}") + f" {news.unit}".rstrip()
