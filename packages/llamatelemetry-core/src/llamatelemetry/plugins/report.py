"""What became of each plugin, kept so that it can be shown instead of raised."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PluginState(StrEnum):
    """How far a plugin got."""

    LOADED = "loaded"
    """Imported, and no hook of it failed so far."""
    DISABLED = "disabled"
    """Kept out by the allow or deny list; never imported."""
    INCOMPATIBLE = "incompatible"
    """Declares a requirement on llamatelemetry-core that this one does not meet; never imported."""
    MISSING_DEPENDENCY = "missing_dependency"
    """Declares a dependency that is not installed; never imported."""
    FAILED = "failed"
    """Its import, or at least one of its hooks or targets, failed. What did not fail is in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginReport:
    """One plugin, as ``llamatelemetry plugins`` shows it.

    Attributes:
        name: Name of its entry point; what allow and deny lists speak of.
        distribution: Distribution that installed it.
        version: Version of that distribution.
        hooks: Hooks it implements, sorted; empty if it was not imported.
        state: How far it got.
        error: Why it is not simply loaded, one problem a line; None if it is.
        fix: What to do about it; None if nothing.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    state: PluginState
    error: str | None = None
    fix: str | None = None
