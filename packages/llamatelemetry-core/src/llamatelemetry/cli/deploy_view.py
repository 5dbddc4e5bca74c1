"""Deployments, for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llamatelemetry.deployment.record import Deployment
from llamatelemetry.deployment.standing import DeploymentStatus
from llamatelemetry.distributed.sizes import counted

_COLOURS: Final = {"serving": "green", "unhealthy": "yellow", "unknown": "yellow", "dead": "red", "stopped": "dim"}
_WORDS: Final = {
    "signed": "it is what its manifest says, and both are signed",
    "verified": "it is what its manifest says",
    "unverified": "UNVERIFIED: no manifest says what it has to be",
}


def deployment_view(deployment: Deployment) -> RenderableType:
    """What serves where, as it began."""
    head = Text.assemble((deployment.name, "bold"), " serves ", (deployment.model, "bold"), f" at {deployment.url}")
    return Group(head, _details(deployment))


def status_view(status: DeploymentStatus) -> RenderableType:
    """How a deployment is."""
    deployment = status.deployment
    head = Text.assemble(
        (deployment.name, "bold"),
        "  ",
        (status.state, _COLOURS[status.state]),
        f"  {deployment.model}  {deployment.url}",
    )
    if status.uptime_s is not None:
        head.append(f"  up {_span(status.uptime_s)}", "dim")
    parts: list[RenderableType] = [head]
    if status.problem:
        parts.append(Text(f"  {status.problem}", "red"))
    return Group(*parts, _details(deployment))


def statuses_data(statuses: Sequence[DeploymentStatus]) -> dict[str, Any]:
    """Several, as JSON has them."""
    return {"deployments": [each.to_data() for each in statuses]}


def history_view(deployments: Sequence[Deployment]) -> RenderableType:
    """What was deployed, one a line."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for each in deployments:
        table.add_row(_moment(each.started_ns), each.model, each.sha256[:12], each.standing, each.url)
    return table


def _details(deployment: Deployment) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    colour = "yellow" if deployment.standing == "unverified" else ""
    table.add_row("  artifact", str(deployment.artifact))
    table.add_row("  sha256", deployment.sha256)
    table.add_row("  standing", Text(_WORDS[deployment.standing], colour))
    if deployment.manifest_digest:
        table.add_row("  manifest", deployment.manifest_digest)
    if deployment.run_id:
        trace = f"  trace {deployment.trace_id}" if deployment.trace_id else ""
        table.add_row("  made by", f"run {deployment.run_id}{trace}")
    options = deployment.options
    context = "" if options.context_length is None else f" of {options.context_length} tokens"
    table.add_row("  serving", f"{counted(options.slots, 'slot')}{context}, since {_moment(deployment.started_ns)}")
    table.add_row("  log", str(deployment.log))
    return table


def _moment(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
