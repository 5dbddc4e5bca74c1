"""Files that are there whole or not at all, also after the power failed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from llamatelemetry.artifacts.tree import unreadable

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name beside it, brings it to the disk, and renames it.

    What stood there before is replaced at once, or is still there whole if anything goes wrong.

    Raises:
        ArtifactError: It cannot be written; nothing of it is left.
    """
    # Short, because a name that is as long as names may be has no room for more.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, _NEW_FILE, 0o644)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise unreadable(path, error) from None


def sync_folder(folder: Path) -> None:
    """Brings what was renamed in a folder to the disk.

    Raises:
        OSError: The folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
