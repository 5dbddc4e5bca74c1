"""The commit that a folder's code is at, read from git's own files: no process, and no git needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_COMMIT: Final = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_MOST_BYTES: Final = 2**24
"""Of a file of packed refs."""


def commit_of(folder: Path) -> str | None:
    """The commit that is checked out in the working tree around a folder; None where there is none to be read.

    Changes that are not committed do not show in it.
    """
    try:
        git = _git_folder(folder)
        return None if git is None else _head(git)
    except (OSError, ValueError):
        return None


def _git_folder(folder: Path) -> Path | None:
    for place in (folder.resolve(), *folder.resolve().parents):
        git = place / ".git"
        if git.is_dir():
            return git
        if git.is_file():  # A linked working tree, or a submodule.
            return place / _read(git).removeprefix("gitdir:").strip()
    return None


def _head(git: Path) -> str | None:
    head = _read(git / "HEAD")
    if not head.startswith("ref:"):
        return _known(head)
    ref = head.removeprefix("ref:").strip()
    # The refs of a linked working tree are those of the repository it was made from.
    shared = git / _read(git / "commondir") if (git / "commondir").is_file() else git
    if ".." in ref.split("/"):
        return None
    if (shared / ref).is_file():
        return _known(_read(shared / ref))
    lines = _read(shared / "packed-refs").splitlines()
    return next((_known(line.split(" ")[0]) for line in lines if line.endswith(f" {ref}")), None)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES).decode().strip()


def _known(text: str) -> str | None:
    return text if _COMMIT.fullmatch(text) else None
