"""Whether a plugin's declared requirements hold, asked before it is imported.

An import that fails halfway says little and may have changed things already; metadata says which
version was wanted, or which package is missing, and names the command that helps.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from llamatelemetry.plugins.report import PluginState

if TYPE_CHECKING:
    from packaging.requirements import Requirement

CORE: Final = "llamatelemetry-core"
"""The distribution that this package is part of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why a plugin is not to be imported, and what to do about it."""

    state: PluginState
    error: str
    fix: str | None = None


def find_obstacle(distribution: str, requires: tuple[str, ...]) -> Obstacle | None:
    """Checks the requirements that apply here, those of extras left aside.

    Only core's version is compared: notebooks ship images whose pins disagree and that work all the
    same, so for the rest it is enough to be installed.

    Args:
        distribution: Name of the plugin's distribution.
        requires: Its requirements, as its metadata spells them.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    missing: list[Requirement] = []
    for text in requires:
        try:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            installed = _installed_version(requirement.name)
            if canonicalize_name(requirement.name) == CORE:
                if installed is not None and not requirement.specifier.contains(installed, prereleases=True):
                    return Obstacle(
                        state=PluginState.INCOMPATIBLE,
                        error=f"it needs {CORE}{requirement.specifier}, and {installed} is installed",
                        fix=_update(distribution, CORE),
                    )
            elif installed is None:
                missing.append(requirement)
        except ValueError:  # Base of what packaging raises for requirements, markers and versions.
            return Obstacle(
                state=PluginState.FAILED,
                error=f"it declares a requirement that cannot be understood: {text!r}",
                fix=_update(distribution),
            )
    if not missing:
        return None
    return Obstacle(
        state=PluginState.MISSING_DEPENDENCY,
        error=f"it needs what is not installed: {', '.join(item.name for item in missing)}",
        fix="pip install " + " ".join(shlex.quote(_without_marker(item)) for item in missing),
    )


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _without_marker(requirement: Requirement) -> str:
    return str(requirement).partition(";")[0].strip()


def _update(*distributions: str) -> str:
    return "pip install --upgrade " + " ".join(distributions)
