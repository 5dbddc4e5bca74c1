"""A bar on standard error while files are hashed; nothing where that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from llamatelemetry.artifacts.hashing import HashProgress
from llamatelemetry.cli.output import progress_console


@contextmanager
def hash_bar(what: str) -> Iterator[Callable[[HashProgress], None]]:
    """What :func:`~llamatelemetry.artifacts.hashing.hash_files` tells how far it is."""
    console = progress_console()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)

        def tell(progress: HashProgress) -> None:
            files = f" ({progress.done_files} of {progress.total_files} files)" if progress.total_files > 1 else ""
            bar.update(task, description=what + files, total=progress.total_bytes, completed=progress.done_bytes)

        yield tell
