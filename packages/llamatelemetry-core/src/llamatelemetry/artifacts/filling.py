"""Folders in which something is made ready: gone afterwards, also those of processes that were killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from llamatelemetry.clock import SYSTEM_CLOCK, Clock

_PREFIX: Final = ".new-"
_YOUNG_NS: Final = 60 * 10**9
"""A folder is made a moment before it is locked, so the youngest are left alone."""


@contextmanager
def folder_to_fill(parent: Path, *, clock: Clock = SYSTEM_CLOCK) -> Iterator[Path]:
    """A new folder in another, on the same disk, for as long as the context lasts.

    Those that nobody fills any more are removed first: a process that is killed removes nothing itself.

    Args:
        parent: The other folder.
        clock: Says how old those are.

    Raises:
        OSError: It cannot be made.
    """
    _sweep(parent, clock)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True) as made:
        descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(made)
        finally:
            os.close(descriptor)


def _sweep(parent: Path, clock: Clock) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # Another process sweeps too, or the folder is not ours to remove.
            if clock.time_ns() - path.lstat().st_mtime_ns < _YOUNG_NS:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                # The lock of a process ends with it.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
