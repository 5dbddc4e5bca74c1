"""Stages and runs, as ``llamatelemetry pipeline`` shows them to people."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llamatelemetry.config import Settings
from llamatelemetry.distributed.sizes import format_size
from llamatelemetry.pipeline.outcome import RunRecord, RunState, StageOutcome
from llamatelemetry.pipeline.parameters import shown, signature_of
from llamatelemetry.pipeline.stage import Port
from llamatelemetry.plugins import Registration
from llamatelemetry.readers import without_credentials

_COLOURS: Final = {
    "succeeded": "green",
    "ran": "green",
    "reused": "cyan",
    "running": "yellow",
    "failed": "red",
    "interrupted": "red",
    "lost": "red",
}
_WORDS: Final = {
    "lost": "lost: its process ended without a word",
    "interrupted": "interrupted: run it again to go on",
    "failed": "failed: run it again to go on",
}


def stages_view(stages: Iterable[Registration]) -> RenderableType:
    """The stages there are."""
    table = _grid()
    for each in stages:
        table.add_row(Text(each.name, "bold"), each.summary, Text(each.plugin, "dim"))
    return table


def stage_data(registration: Registration | None, stage: type) -> dict[str, Any]:
    """What a stage takes, makes and can be told."""
    parameters = {
        name: {
            "type": shown(each.annotation),
            "required": each.default is each.empty,
            **({} if each.default is each.empty else {"default": _plain(each.default)}),
        }
        for name, each in signature_of(stage).items()
        if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}
    }
    return {
        "name": stage.__name__ if registration is None else registration.name,
        "summary": "" if registration is None else registration.summary,
        "plugin": "" if registration is None else registration.plugin,
        "help": (inspect.getdoc(stage) or "").partition("\n\nRaises:")[0],
        "inputs": _ports(stage, "inputs"),
        "outputs": _ports(stage, "outputs"),
        "parameters": parameters,
    }


def stage_view(data: Mapping[str, Any]) -> RenderableType:
    """One stage, from :func:`stage_data`."""
    parts: list[RenderableType] = [Text(data["name"], "bold"), Text(data["help"] or data["summary"])]
    for title in ("inputs", "outputs"):
        table = _grid()
        for port in data[title]:
            optional = "optional" if port["optional"] else ""
            table.add_row(f"  {port['name']}", port["kind"], optional, port["help"])
        parts += [Text(title, "dim"), table]
    table = _grid()
    for name, each in data["parameters"].items():
        table.add_row(f"  {name}", each["type"], "required" if each["required"] else f"default {each['default']}")
    return Group(*parts, Text("parameters", "dim"), table)


def wires_view(wiring: Mapping[str, Mapping[str, str]]) -> RenderableType:
    """Where each input comes from."""
    table = _grid()
    for stage, wires in wiring.items():
        sources = ", ".join(f"{name} from {source}" for name, source in wires.items())
        table.add_row(Text(stage, "bold"), sources or "takes nothing")
    return table


def run_view(record: RunRecord, state: RunState, problems: Sequence[str] | None) -> RenderableType:
    """What came of a run."""
    head = Text.assemble(
        ("pipeline ", "dim"),
        (record.pipeline, "bold"),
        "  ",
        record.run_id,
        "  ",
        (_WORDS.get(state, state), _COLOURS[state]),
    )
    table = _grid()
    for stage in record.stages:
        cost = stage.resources
        table.add_row(
            Text(f"  {stage.id}", "bold"),
            Text(stage.state, _COLOURS[stage.state]),
            "" if cost is None else f"{cost.wall_s:.1f} s",
            "" if cost is None else f"CPU {cost.cpu_s + cost.children_cpu_s:.1f} s",
            "" if cost is None or cost.memory_peak_bytes is None else format_size(cost.memory_peak_bytes),
            "" if stage.gpu_energy_j is None else f"{stage.gpu_energy_j:.0f} J",
            _losses(stage),
        )
    parts: list[RenderableType] = [head, table]
    parts += [Text(f"  {stage.id}: {stage.error_type}: {stage.error}", "red") for stage in record.stages if stage.error]
    if record.error and not any(stage.error for stage in record.stages):
        parts.append(Text(f"  {record.error_type}: {record.error}", "red"))
    parts += [Text(f"  {each}", "yellow") for each in record.changes]
    parts += [Text(f"  {stage.id}: made anew: {each}", "yellow") for stage in record.stages for each in stage.damage]
    parts += [
        Text.assemble(f"  {stage.id}.{name}  ", (_near(path), "dim"))
        for stage in record.stages
        for name, path in stage.paths.items()
    ]
    if problems is not None:
        parts += [Text(f"  {each}", "red") for each in problems] or [Text("  every artifact is whole", "green")]
    started = datetime.fromtimestamp(record.started_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts.append(Text(f"  {started}" + (f"  trace {record.trace_id}" if record.trace_id else ""), "dim"))
    return Group(*parts)


def telemetry_line(settings: Settings) -> str:
    """Where telemetry went; empty if nowhere that can be named."""
    if "otlp" in settings.traces_exporters:
        from llamatelemetry.otel.otlp import signal_endpoint  # It brings the SDK, which not every verb here needs.

        return f"Telemetry was sent to {without_credentials(signal_endpoint(settings, 'traces'))}"
    return f"Telemetry is in {_near(settings.telemetry_dir)}" if "file" in settings.traces_exporters else ""


def _near(path: Path | str) -> str:
    """A path as short as it can be written from the current folder."""
    here = Path.cwd()
    return str(Path(path).relative_to(here) if Path(path).is_relative_to(here) else path)


def _ports(stage: type, side: str) -> list[dict[str, Any]]:
    # A stage may decide its ports when it is made; then its class has none to show.
    ports = getattr(stage, side, ())
    if not isinstance(ports, tuple | list):
        return []
    return [
        {"name": port.name, "kind": port.kind, "optional": port.optional, "help": port.help}
        for port in ports
        if isinstance(port, Port)
    ]


def _losses(stage: StageOutcome) -> str:
    if stage.loss_first is None or stage.loss_last is None:
        return "" if stage.steps is None else f"{stage.steps} steps"
    return f"{stage.steps} steps, loss {stage.loss_first:.4g} to {stage.loss_last:.4g}"


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    return table
