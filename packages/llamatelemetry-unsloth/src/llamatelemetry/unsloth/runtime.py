"""torch, transformers, PEFT and unsloth, imported when there is something to train or merge and not before.

What is missing is one error that says how to install it. Nothing stands in for unsloth unless the caller
said ``engine="peft"``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from typing import Any, Final

from llamatelemetry.errors import BackendStartError, MissingDependencyError
from llamatelemetry.unsloth.environment import tame_unsloth
from llamatelemetry.unsloth.quiet import without_prints
from llamatelemetry.unsloth.settings import Engine

__all__ = ["PEFT_COMMAND", "UNSLOTH_COMMAND", "Libraries", "import_runtime", "installed_version", "versions_of"]

PEFT_COMMAND: Final = "pip install 'llamatelemetry-unsloth[peft]'"
UNSLOTH_COMMAND: Final = "pip install 'llamatelemetry-unsloth[unsloth]'"
"""Install what each engine takes."""
_FOUR_BITS: Final = "bitsandbytes"

LEAST: Final[Mapping[str, tuple[int, int]]] = {
    "accelerate": (1, 1),
    "bitsandbytes": (0, 46),
    "peft": (0, 18),
    "torch": (2, 6),
    "transformers": (5, 0),
    "unsloth": (2026, 9),
}
_PEFT: Final = ("torch", "transformers", "accelerate", "peft")
# unsloth patches the others, so that it has to come first.
_UNSLOTH: Final = ("unsloth", *_PEFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """Modules to train and merge with.

    Attributes:
        torch: torch.
        transformers: transformers.
        peft: PEFT.
        unsloth: unsloth; None unless it is the engine.
    """

    torch: Any
    transformers: Any
    peft: Any
    unsloth: Any = None


def import_runtime(engine: Engine, needed_for: str) -> Libraries:
    """Imports what an engine takes, which takes seconds the first time.

    Args:
        engine: The engine.
        needed_for: What it is for, for the error.

    Raises:
        MissingDependencyError: Something is not installed or too old; carries the command that installs it.
        BackendStartError: Something cannot be imported.
    """
    versions_of(engine, needed_for)
    if engine == "unsloth":
        tame_unsloth()
    with without_prints():
        modules = {name: _imported(name) for name in _packages(engine)}
    del modules["accelerate"]
    return Libraries(**modules)


def versions_of(engine: Engine, needed_for: str, *, load_in_4bit: bool = False) -> dict[str, str]:
    """Names of what an engine takes to the versions that are installed, which nothing is imported for.

    Args:
        engine: The engine.
        needed_for: What it is for, for the error.
        load_in_4bit: With what loading in four bits takes.

    Raises:
        MissingDependencyError: Something is not installed or too old; carries the command that installs it.
    """
    command = UNSLOTH_COMMAND if engine == "unsloth" else PEFT_COMMAND
    if engine == "unsloth" and installed_version("unsloth") is None:
        command = f'{command}, or ask for engine="peft"'
    found = {}
    for name in (*_packages(engine), *([_FOUR_BITS] if load_in_4bit else [])):
        installed = installed_version(name)
        command = f"pip install {name}" if name == _FOUR_BITS else command
        least = ".".join(map(str, LEAST[name]))
        if installed is None:
            raise MissingDependencyError(needed_for, name, command)
        if _numbers(installed) < LEAST[name]:
            raise MissingDependencyError(needed_for, f"{name} {least} or newer ({installed} is here)", command)
        found[name] = installed
    return found


def installed_version(distribution: str) -> str | None:
    """The version of a distribution, found without importing it; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _packages(engine: Engine) -> tuple[str, ...]:
    return _UNSLOTH if engine == "unsloth" else _PEFT


def _numbers(text: str) -> tuple[int, int]:
    """Major and minor of a version such as ``2.13.0+cpu``; zero for what is no number."""
    major, minor = ("".join(takewhile(str.isdecimal, part)) for part in [*text.split("."), "", ""][:2])
    return int(major or 0), int(minor or 0)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # An installation may be broken in any way.
        reason = f"{type(error).__name__}: {error}"
        raise BackendStartError(f"{name} is installed and cannot be imported: {reason}. Install it anew") from error
