"""A bar on standard error for work that is counted in bytes; none where that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from llamatelemetry.cli.output import progress_console


class Bytes(Protocol):
    """How far work is."""

    @property
    def done_bytes(self) -> int:
        """Bytes that are done."""
        ...

    @property
    def total_bytes(self) -> int:
        """Bytes that there are."""
        ...


@contextmanager
def byte_progress(what: str) -> Iterator[Callable[[Bytes], None]]:
    """Shows a bar while it is entered; gives what tells it how far the work is."""
    console = progress_console()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda progress: bar.update(task, completed=progress.done_bytes, total=progress.total_bytes)
