"""A file of whole lines that rotates by size, in a folder that several processes may share.

The active file keeps its name, and what is full is renamed away from it. Each file belongs to
one process and is locked by it while it writes, so that another one that tidies the folder leaves
it alone; the lock goes with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from llamatelemetry.otel.delivery import Signal

SUFFIX: Final = ".jsonl"

_logger = logging.getLogger(__name__)


class RotatingFile:
    """Appends lines to ``<signal>-<pid>-<time>.jsonl``. Not thread-safe; not for use across a fork.

    The file is made with the first line, and made again if somebody removes it.

    Args:
        folder: Where the files lie.
        signal: What they hold.
        max_bytes: Size past which the active file is rotated; a longer line stands alone.
        max_count: Files of this signal to keep; the oldest that nobody writes to are deleted past it.
    """

    def __init__(self, folder: Path, signal: Signal, *, max_bytes: int, max_count: int) -> None:
        self._folder = folder
        self._signal: Signal = signal
        self._max_bytes = max_bytes
        self._max_count = max_count
        self._path: Path | None = None
        self._fd: int | None = None
        self._size = 0
        self._rotations = 0

    def write(self, line: bytes) -> None:
        """Appends one line, whole or not at all.

        Raises:
            OSError: It could not be written, for example because the disk is full.
        """
        if self._fd is not None and self._size and self._size + len(line) > self._max_bytes:
            self._rotate()
        fd = self._descriptor()
        try:
            written = 0
            while written < len(line):
                written += os.write(fd, line[written:])
        except OSError:
            self._take_back(fd)
            raise
        self._size += len(line)

    def close(self) -> None:
        """Lets go of the active file; a later line starts another."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _descriptor(self) -> int:
        if self._fd is not None and self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == os.fstat(self._fd).st_ino:
                    return self._fd
            self.close()
        return self._open()

    def _open(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = self._path or self._new_path()
            try:
                # Exclusive: processes of the same number, in two containers, may share the folder.
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            except FileExistsError:
                self._path = None
                continue
            with contextlib.suppress(OSError):  # A file system without locks only loses the courtesy.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path, self._fd, self._size = path, fd, 0
            self._prune()
            return fd

    def _new_path(self) -> Path:
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        return self._folder / f"{self._signal}-{os.getpid()}-{started}{SUFFIX}"

    def _rotate(self) -> None:
        path = self._path
        self.close()
        if path is not None:
            self._rotations += 1
            with contextlib.suppress(FileNotFoundError):
                path.rename(path.with_suffix(f".{self._rotations:04d}{SUFFIX}"))

    def _take_back(self, fd: int) -> None:
        try:
            os.ftruncate(fd, self._size)
        except OSError:
            self.close()  # Whatever of the line is there stays the last of its file.

    def _prune(self) -> None:
        try:
            files = _oldest_first(self._folder.glob(f"{self._signal}-*{SUFFIX}"))
        except OSError:
            return
        excess = len(files) - self._max_count
        for path in files[: max(0, excess)]:
            if path != self._path and _remove_unless_in_use(path):
                _logger.info("removed %s: %s keeps %d files of %s", path, self._folder, self._max_count, self._signal)


def files_of_process(folder: Path, pid: int) -> list[Path]:
    """The telemetry files that a process has written, oldest first.

    Args:
        folder: Where the files lie.
        pid: The process.
    """
    return _oldest_first(folder.glob(f"*-{pid}-*{SUFFIX}"))


def _oldest_first(paths: Iterable[Path]) -> list[Path]:
    aged = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            aged.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(aged)]


def _remove_unless_in_use(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
