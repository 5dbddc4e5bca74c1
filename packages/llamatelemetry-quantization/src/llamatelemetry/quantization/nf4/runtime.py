"""torch and bitsandbytes, imported when four-bit weights are asked for and not before."""

from __future__ import annotations

import importlib
from itertools import takewhile
from types import ModuleType
from typing import Any, Final

from llamatelemetry.errors import InvalidValueError, MissingDependencyError

__all__ = ["INSTALL_COMMAND", "load_bitsandbytes", "load_torch", "usable_device"]

INSTALL_COMMAND: Final = "pip install 'llamatelemetry-quantization[nf4]'"
"""Installs both."""
_NEEDED_FOR: Final = "NF4 and FP4"
_LEAST_TORCH: Final = (2, 6)
_LEAST_BITSANDBYTES: Final = (0, 50)
"""The first whose four-bit kernels are those of every processor, not of CUDA alone."""


def load_torch() -> ModuleType:
    """Imports torch.

    Raises:
        MissingDependencyError: It is not installed, too old, or cannot be imported; carries the command that helps.
    """
    return _load("torch", _LEAST_TORCH)


def load_bitsandbytes() -> ModuleType:
    """Imports bitsandbytes, which cannot be without torch.

    Raises:
        MissingDependencyError: One of them is not installed, too old, or cannot be imported; carries the command
            that helps.
    """
    load_torch()
    return _load("bitsandbytes", _LEAST_BITSANDBYTES)


def usable_device(device: Any) -> Any:
    """A device as torch has it, once something was put there.

    Args:
        device: A ``torch.device``, or what one is made of, for example ``cuda``.

    Raises:
        InvalidValueError: There is none of that name here, or nothing can be computed on it.
        MissingDependencyError: torch is not installed.
    """
    torch, fix = load_torch(), "give one that this torch can use, such as 'cpu'"
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    except Exception as error:  # Without CUDA it is any of three kinds, depending on the call.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidValueError("device", str(device), f"{fix}: {reason}") from error
    if found.type == "meta":
        raise InvalidValueError("device", str(device), f"{fix}: nothing is stored on this one")
    return found


def _load(name: str, least: tuple[int, int]) -> ModuleType:
    try:
        module = importlib.import_module(name)
        found = _numbers(str(module.__version__))
    except ModuleNotFoundError as error:
        missing = name if error.name == name else f"a {name} that can be imported ({error})"
        raise MissingDependencyError(_NEEDED_FOR, missing, INSTALL_COMMAND) from error
    except Exception as error:  # A broken installation fails in any way, a missing system library among them.
        missing = f"a {name} that can be imported ({type(error).__name__}: {error})"
        raise MissingDependencyError(_NEEDED_FOR, missing, INSTALL_COMMAND) from error
    if found < least:
        missing = f"{name} {least[0]}.{least[1]} or newer, instead of {module.__version__}"
        raise MissingDependencyError(_NEEDED_FOR, missing, INSTALL_COMMAND)
    return module


def _numbers(version: str) -> tuple[int, int]:
    """Major and minor of a version such as ``2.13.0+cpu``; zero for what is no number."""
    major, minor = ("".join(takewhile(str.isdecimal, part)) for part in [*version.split("."), "", ""][:2])
    return int(major or 0), int(minor or 0)
