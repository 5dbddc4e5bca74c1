"""A large file that is there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from llamatelemetry.errors import InvalidValueError, ModelFileError

__all__ = ["check_place", "new_file"]

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def new_file(path: Path, size_bytes: int) -> Iterator[int]:
    """A descriptor of an empty file of that size, which gets its name when the block ends well.

    Room on the disk is taken before anything is written, so a disk that is too full is known at once.

    Raises:
        ModelFileError: It cannot be written; nothing of it is left, and what had that name is still there.
    """
    check_place(path)
    # Short, because a name that is as long as names may be has no room for more.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
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


def check_place(path: Path, *, reads: Iterable[object] = ()) -> None:
    """Holds a place to be one for a new file, before hours go into what is to be in it.

    Args:
        path: The place.
        reads: What is read meanwhile; what is no path of a file is passed over.

    Raises:
        InvalidValueError: It is a file that is read.
        ModelFileError: Its folder is not there, or something has that name that is no plain file.
    """
    try:
        try:
            found = path.stat().st_mode
        except FileNotFoundError:
            path.parent.stat()
            return
        if stat.S_ISDIR(found):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except (OSError, ValueError) as error:
        raise _unwritable(path, error, 0) from error
    for each in reads:
        if isinstance(each, str | os.PathLike) and Path(each).exists() and path.samefile(each):
            raise InvalidValueError("target", str(path), "give another file than one to read")
    if not stat.S_ISREG(found):
        # What is renamed to the name of a device takes its place.
        raise ModelFileError(path, "cannot be written: it is no plain file")


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
