"""Folders that appear under their names when all of what is in them is there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.unsloth.failures import first_line

__all__ = ["check_free", "whole_folder"]


def check_free(folder: Path) -> None:
    """Holds a place to be free for a new folder, before hours go into what is to be in it.

    Raises:
        InvalidValueError: Something is there that is no empty folder.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InvalidValueError("folder", str(folder), "something is there: remove it, or give another")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in, which takes its name when this is left, and is gone where that raises.

    Raises:
        InvalidValueError: Something is there already that is no empty folder.
        ModelFileError: It cannot be written.
    """
    check_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ModelFileError(folder, f"cannot be made: {error.strerror}") from error
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # A full disk has either name, depending on who wrote.
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise ModelFileError(folder, f"cannot be written: {first_line(error)}") from error
        raise
