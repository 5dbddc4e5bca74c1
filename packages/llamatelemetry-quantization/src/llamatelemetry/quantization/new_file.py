"""A large file that is there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from llamatelemetry.errors import ModelFileError

__all__ = ["new_file"]

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def new_file(path: Path, size_bytes: int) -> Iterator[int]:
    """A descriptor of an empty file of that size, which gets its name when the block ends well.

    Room on the disk is taken before anything is written, so a disk that is too full is known at once.

    Raises:
        ModelFileError: It cannot be written; nothing of it is left, and what had that name is still there.
    """
    # Short, because a name that is as long as names may be has no room for more.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        _check_name(path)
        descriptor = os.open(temporary, _NEW, 0o644)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error, size_bytes) from error
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        yield descriptor
        os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error, size_bytes) from error
    finally:
        os.close(descriptor)
        # After a rename nothing has that name any more.
        with suppress(OSError):
            temporary.unlink()
    _sync_folder(path.parent)


def _check_name(path: Path) -> None:
    """Sees that a file can have that name: renaming would say so only when all the work is done."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except FileNotFoundError:
        pass


def _sync_folder(folder: Path) -> None:
    """Brings the new name to the disk; a file system that cannot do that for folders keeps it anyhow."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(path: Path, error: OSError | ValueError, size_bytes: int) -> ModelFileError:
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        return ModelFileError(path, f"cannot be written: {reason}. It takes {size_bytes} bytes; make room for them")
    return ModelFileError(path, f"cannot be written: {reason}")
