"""Stores of pipelines in the current folder, for verbs that are not told which."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llamatelemetry.errors import PipelineError
from llamatelemetry.pipeline.definition import DEFAULT_STORE
from llamatelemetry.pipeline.runner import RUNS, WORK

_PARTS: Final = (RUNS, WORK)
"""What every run leaves in its store, and hardly any other folder has together."""


def stores_here() -> tuple[Path, ...]:
    """Every folder of the current one that a pipeline was run in, by name; :data:`DEFAULT_STORE` also without a run."""
    try:
        folders = sorted(each for each in Path().iterdir() if not each.is_symlink() and each.is_dir())
        return tuple(
            each for each in folders if each.name == DEFAULT_STORE or all((each / part).is_dir() for part in _PARTS)
        )
    except OSError:
        return ()


def store_here() -> Path:
    """The store to look into: :data:`DEFAULT_STORE` where runs are recorded there or nowhere, else the only other one.

    Raises:
        PipelineError: There are several others.
    """
    default = Path(DEFAULT_STORE)
    others = [each for each in stores_here() if each != default]
    if not others or (default / RUNS).is_dir():
        return default
    if len(others) > 1:
        names = ", ".join(each.name for each in others)
        raise PipelineError(f"there are several stores: {names}; say which with --store")
    return others[0]
