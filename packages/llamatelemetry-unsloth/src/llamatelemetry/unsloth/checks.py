"""What ``llamatelemetry doctor`` says of the engines, without importing either: that takes seconds."""

from __future__ import annotations

from llamatelemetry.errors import MissingDependencyError
from llamatelemetry.plugins import Check, CheckState
from llamatelemetry.unsloth.runtime import versions_of
from llamatelemetry.unsloth.settings import Engine


def checks() -> list[Check]:
    """Looks at both; neither has to be there to look into adapters."""
    return [_engine("unsloth"), _engine("peft")]


def _engine(engine: Engine) -> Check:
    try:
        found = versions_of(engine, "training")
    except MissingDependencyError as error:
        detail = f"{error.missing} is not installed; to train with it: {error.command}"
        return Check(name=engine, state=CheckState.OK, detail=detail)
    return Check(name=engine, state=CheckState.OK, detail=", ".join(f"{name} {found[name]}" for name in found))
