"""Where a run writes before it is done, and how what a killed run left behind is told from what is in use.

::

    work/<run id>/          what is being made; gone when the run ends, however it does
    work/<run id>.lock      held while the run's process lives; the kernel lets go of it, whatever happens
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llamatelemetry.artifacts.tree import unreadable
from llamatelemetry.errors import PipelineDefinitionError


@contextmanager
def work_folder(root: Path, run_id: str) -> Iterator[Path]:
    """A folder for a run while it lasts; what runs that were killed left in their own is removed first.

    Args:
        root: The folder of all runs' folders.
        run_id: The run.

    Raises:
        PipelineDefinitionError: A run of this id is going on.
        ArtifactError: Nothing can be written there.
    """
    folder = root / run_id
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        lock = _lock(_lock_path(root, run_id))
        if lock is None:
            fix = "a run of this id is going on; wait for it or take another id"
            raise PipelineDefinitionError("run_id", run_id, fix)
    except OSError as error:
        raise unreadable(root, error) from None
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        _remove(folder, _lock_path(root, run_id), lock)


def is_going_on(root: Path, run_id: str) -> bool:
    """Whether some process runs it now."""
    path = _lock_path(root, run_id)
    if not path.exists():
        return False
    lock = _lock(path)
    if lock is None:
        return True
    os.close(lock)
    return False


def _lock_path(root: Path, run_id: str) -> Path:
    return root / f"{run_id}.lock"


def _sweep(root: Path) -> None:
    for path in root.glob("*.lock"):
        lock = _lock(path)
        if lock is not None:
            _remove(path.with_suffix(""), path, lock)


def _remove(folder: Path, path: Path, lock: int) -> None:
    """Ends a run's place; the lock goes last, so that nobody takes the place while it is being cleared."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            path.unlink()
    finally:
        os.close(lock)


def _lock(path: Path) -> int | None:
    """Takes a lock; None where another process, or another run of this one, has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder may have removed it between the two calls; then it is no longer the one at the path.
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
