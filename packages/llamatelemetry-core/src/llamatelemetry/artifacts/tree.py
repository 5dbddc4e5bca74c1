"""The files of an artifact, found without following anything out of it.

Symbolic links, devices, sockets and pipes are refused rather than left out: what is not in the
manifest could otherwise still be what a program reads.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from llamatelemetry.artifacts import checks
from llamatelemetry.errors import ArtifactError, ArtifactMissingError, UnsafePathError


def is_folder(path: Path) -> bool:
    """True for a folder, False for a file.

    Raises:
        ArtifactMissingError: Nothing is there.
        UnsafePathError: It is a symbolic link, or neither of the two.
        ArtifactError: It cannot be looked at.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactMissingError(path, "check the path") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    _refuse_special(path, mode)
    return stat.S_ISDIR(mode)


def list_files(folder: Path) -> tuple[str, ...]:
    """Paths of all files below a folder, with forward slashes, in the order of a manifest.

    A folder without files leaves no trace.

    Raises:
        UnsafePathError: There is a symbolic link, a special file, or a name that is not UTF-8 or no line of text.
        InvalidManifestError: There are more files than a manifest takes.
        ArtifactError: A folder cannot be read.
    """
    found: list[str] = []
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(folder / prefix) as entries:
                listed = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in entries]
        except OSError as error:
            raise unreadable(folder / prefix, error) from None
        for name, mode in listed:
            path = prefix + name
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                _refuse_special(folder / path, mode)
            checks.relative_path("files", path)
            if stat.S_ISDIR(mode):
                waiting.append(f"{path}/")
            else:
                found.append(path)
        checks.few_enough("files", found)
    return tuple(sorted(found, key=lambda path: path.split("/")))


def unreadable(path: object, error: Exception) -> ArtifactError:
    """What is raised where the operating system would not read or write something."""
    reason = getattr(error, "strerror", None) or str(error)
    return ArtifactError(f"{path} cannot be used: {reason}")


def _refuse_special(path: Path, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise UnsafePathError(path, "is a symbolic link", f"use what it leads to, {path.resolve()}, or a copy")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UnsafePathError(path, "is neither a file nor a folder", "remove it")
