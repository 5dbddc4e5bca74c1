"""torch and transformers, imported when a model is to run and not before, with one clear error where they are missing.

Most of this distribution does without them. What does not asks here, so that an installation that
lacks one, or has one too old, is told in the same words wherever it is noticed.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from types import ModuleType
from typing import Final

from llamatelemetry.errors import BackendStartError, MissingDependencyError

INSTALL_COMMAND: Final = "pip install 'llamatelemetry-transformers[torch]'"
"""Installs what running a model takes."""

MIN_TORCH: Final = (2, 6)
MIN_TRANSFORMERS: Final = (5, 0)
MIN_CONTINUOUS: Final = (5, 21)
"""The transformers from which on its paged cache is laid out as ``paged_cache`` reads it."""


def load_torch(needed_for: str = "running a Hugging Face model") -> ModuleType:
    """Imports torch.

    Raises:
        MissingDependencyError: It is not installed; carries the command that installs it.
        BackendStartError: It is too old, or cannot be imported.
    """
    return _load("torch", MIN_TORCH, needed_for)


def load_transformers(needed_for: str = "running a Hugging Face model") -> ModuleType:
    """Imports transformers, which needs torch to run anything.

    Raises:
        MissingDependencyError: One of them is not installed; carries the command that installs both.
        BackendStartError: One of them is too old, or cannot be imported.
    """
    load_torch(needed_for)
    return _load("transformers", MIN_TRANSFORMERS, needed_for)


def installed_version(distribution: str) -> str | None:
    """The version of a distribution, found without importing it; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def version_numbers(text: str) -> tuple[int, int]:
    """Major and minor of a version such as ``2.13.0+cpu`` or ``5.0.0rc1``; zero for what is no number."""
    parts = [*text.split("."), "", ""]
    major, minor = ("".join(takewhile(str.isdecimal, part)) for part in parts[:2])
    return int(major or 0), int(minor or 0)


def too_old(name: str, found: str, least: tuple[int, int]) -> str:
    """The sentence for an installation that is too old; empty where it is not."""
    if version_numbers(found) >= least:
        return ""
    return f"{name} {found} is too old: {least[0]}.{least[1]} or newer is needed"


def _load(name: str, least: tuple[int, int], needed_for: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise BackendStartError(
                f"{name} cannot be imported: {error}. Install it anew: {INSTALL_COMMAND}"
            ) from error
        raise MissingDependencyError(needed_for, name, INSTALL_COMMAND) from error
    except Exception as error:  # a broken installation fails in any way, a missing system library among them
        raise BackendStartError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, "__version__"):  # a folder of that name, which Python takes for a package
        place = module.__file__ or next(iter(module.__path__))
        raise BackendStartError(f"{name} is no package: {place} hides it or is a rest of it")
    old = too_old(name, module.__version__, least)
    if old:
        raise BackendStartError(f"{old}. Run: {INSTALL_COMMAND}")
    return module
