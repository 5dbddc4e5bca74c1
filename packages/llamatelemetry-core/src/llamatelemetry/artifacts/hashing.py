"""SHA-256 of many files at once, and of none that changes meanwhile.

hashlib lets other threads run while it works, so large files are spread over threads, the largest first.
Each is looked at before and after: a file that somebody writes to has no digest worth keeping.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamatelemetry.artifacts.tree import unreadable
from llamatelemetry.errors import ArtifactChangedError, ArtifactMissingError, UnsafePathError

BUFFER_BYTES: Final = 2**20
"""Read at once: enough to keep the cost of a read small, little enough to stay in a CPU's cache."""
_LARGE_BYTES: Final = 2**18
"""Below it a file costs Python more than hashlib, and threads would wait for each other."""
MAX_WORKERS: Final = 16
"""Threads: more are waiting for the disk or for memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """What a file held.

    Attributes:
        size_bytes: Bytes that were read.
        sha256: Their SHA-256, in lower-case hexadecimal.
    """

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HashProgress:
    """How far hashing got.

    Attributes:
        done_bytes: Bytes hashed.
        total_bytes: Bytes there are to hash.
        done_files: Files finished.
        total_files: Files there are.
    """

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int


def hash_files(
    paths: Sequence[Path],
    *,
    workers: int | None = None,
    progress: Callable[[HashProgress], None] | None = None,
) -> tuple[FileDigest, ...]:
    """SHA-256 of every file, in the order given.

    Args:
        paths: Plain files.
        workers: Threads for large files; one for each CPU that this process may use where None, and
            :data:`MAX_WORKERS` at most.
        progress: Called after every :data:`BUFFER_BYTES`, from one thread at a time, which it should not keep.

    Raises:
        ArtifactMissingError: A file is not there.
        ArtifactChangedError: A file changed meanwhile.
        UnsafePathError: One is a symbolic link or no plain file.
        ArtifactError: One cannot be read.
    """
    sizes = [_size(path) for path in paths]
    tally = _Tally(sum(sizes), len(paths), progress)
    large = sorted((index for index, size in enumerate(sizes) if size >= _LARGE_BYTES), key=lambda index: -sizes[index])
    threads = min(len(large), workers or len(os.sched_getaffinity(0)), MAX_WORKERS)
    if threads <= 1:
        return tuple(_hash_file(path, tally) for path in paths)
    digests: dict[int, FileDigest] = {}

    def work(waiting: Iterator[int]) -> None:
        for index in waiting:
            if tally.stopped:
                return
            digests[index] = _hash_file(paths[index], tally)

    with ThreadPoolExecutor(threads, thread_name_prefix="llamatelemetry-hash") as pool:
        in_turns = iter(large)  # All threads take from it.
        tasks = [pool.submit(work, in_turns) for _ in range(threads)]
        tasks.append(pool.submit(work, iter([index for index, size in enumerate(sizes) if size < _LARGE_BYTES])))
        try:
            for done in as_completed(tasks):
                done.result()
        finally:
            # After a failure, and after Ctrl-C, nobody waits for the rest.
            tally.stopped = True
    return tuple(digests[index] for index in range(len(paths)))


def hash_file(path: Path) -> FileDigest:
    """SHA-256 of one file.

    Raises:
        ArtifactMissingError: It is not there.
        ArtifactChangedError: It changed meanwhile.
        UnsafePathError: It is a symbolic link or no plain file.
        ArtifactError: It cannot be read.
    """
    (digest,) = hash_files([path])
    return digest


@contextmanager
def open_unchanging(path: Path) -> Iterator[int]:
    """A descriptor to read a plain file with, which must be the same file, as it was, in the end.

    Raises:
        ArtifactMissingError: It is not there.
        ArtifactChangedError: It changed meanwhile; raised on leaving.
        UnsafePathError: It is a symbolic link or no plain file.
        ArtifactError: It cannot be read.
    """
    try:
        # Opening a pipe would wait for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ArtifactMissingError(path, "check the path") from None
    except (OSError, ValueError) as error:
        if path.is_symlink():
            raise UnsafePathError(path, "is a symbolic link", "use what it leads to, or a copy") from None
        raise unreadable(path, error) from None
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise UnsafePathError(path, "is no plain file", "remove it")
        yield descriptor
        try:
            there_now = path.lstat()
        except OSError:
            raise ArtifactChangedError(path) from None
        if _state(before) != _state(os.fstat(descriptor)) or _state(before) != _state(there_now):
            raise ArtifactChangedError(path)
    except OSError as error:
        raise unreadable(path, error) from None
    finally:
        os.close(descriptor)


class _Tally:
    """Adds up what the threads did, and tells them to stop."""

    def __init__(self, total_bytes: int, total_files: int, progress: Callable[[HashProgress], None] | None) -> None:
        self._total_bytes = total_bytes
        self._total_files = total_files
        self._progress = progress
        self._done_bytes = 0
        self._done_files = 0
        self._lock = threading.Lock()
        self.stopped = False

    def add(self, size_bytes: int, files: int = 0) -> None:
        if self._progress is None:
            return
        with self._lock:
            self._done_bytes += size_bytes
            self._done_files += files
            self._progress(
                HashProgress(
                    done_bytes=self._done_bytes,
                    total_bytes=self._total_bytes,
                    done_files=self._done_files,
                    total_files=self._total_files,
                )
            )


def _hash_file(path: Path, tally: _Tally) -> FileDigest:
    digest = hashlib.sha256()
    total = 0
    with open_unchanging(path) as descriptor:
        limit = os.fstat(descriptor).st_size
        buffer = memoryview(bytearray(min(BUFFER_BYTES, limit + 1)))
        # Past its size it has changed, and one that grows as fast as it is read has no end.
        while total <= limit and not tally.stopped and (size := os.readv(descriptor, [buffer])):
            digest.update(buffer[:size])
            total += size
            tally.add(size)
    tally.add(0, files=1)
    return FileDigest(size_bytes=total, sha256=digest.hexdigest())


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        raise ArtifactMissingError(path, "check the path") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
