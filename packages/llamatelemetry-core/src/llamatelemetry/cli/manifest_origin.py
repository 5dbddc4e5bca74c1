"""Options that say where an artifact came from."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import click

from llamatelemetry.artifacts.manifest import ArtifactOrigin

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT: Final = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def pairs(_context: click.Context, _parameter: click.Parameter, value: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE``, repeated, as a callback of click."""
    found = {}
    for item in value:
        name, equals, content = item.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{item!r} is not NAME=VALUE")
        found[name] = content
    return found


def roles(_context: click.Context, _parameter: click.Parameter, value: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """``ROLE=TARGET``, repeated; the same role may be there twice."""
    found = []
    for item in value:
        role, equals, target = item.partition("=")
        if not role or not equals or not target:
            raise click.BadParameter(f"{item!r} is not ROLE=TARGET")
        found.append((role, target))
    return tuple(found)


def parameters(context: click.Context, parameter: click.Parameter, value: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE``, where what is JSON is taken as such and anything else as text."""
    return {name: _json_or_text(text) for name, text in pairs(context, parameter, value).items()}


def origin_of(*, stage: str, run_id: str, traceparent: str, git_commit: str) -> ArtifactOrigin:
    """The origin that the options name.

    Raises:
        click.BadParameter: The traceparent is none.
        InvalidManifestError: Another of them cannot be used.
    """
    found = _TRACEPARENT.fullmatch(traceparent)
    if traceparent and found is None:
        raise click.BadParameter(f"{traceparent!r} is no W3C traceparent", param_hint="--traceparent")
    trace_id, span_id = found.groups() if found else ("", "")
    return ArtifactOrigin(stage=stage, run_id=run_id, trace_id=trace_id, span_id=span_id, git_commit=git_commit)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
