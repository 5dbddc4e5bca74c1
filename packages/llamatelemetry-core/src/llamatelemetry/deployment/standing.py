"""What became of a deployment: asked of its processes and of its server, not of what was written once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.deployment.processes import is_running
from llamatelemetry.deployment.record import DEFAULT_NAME, Deployment
from llamatelemetry.deployment.smoke import ask_health
from llamatelemetry.deployment.state import DeploymentFolder, deployment_names

DeploymentState = Literal["serving", "unhealthy", "unknown", "dead", "stopped"]
"""``serving``: it answers. ``unhealthy``: its processes are there and it does not answer. ``unknown``: they are there
and the plugin that would ask it is not. ``dead``: it ended, and nobody asked for that. ``stopped``: somebody did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentStatus:
    """What became of a deployment.

    Attributes:
        deployment: The deployment.
        state: How it is.
        problem: What is wrong, in words; empty where nothing is.
        uptime_s: Seconds that it has served; None where it does not, or nobody can tell.
    """

    deployment: Deployment
    state: DeploymentState
    problem: str = ""
    uptime_s: float | None = None

    def to_data(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            **self.deployment.to_data(),
            "state": self.state,
            "problem": self.problem,
            "uptime_s": self.uptime_s,
        }


def status(name: str = DEFAULT_NAME, *, home: Path | None = None, clock: Clock = SYSTEM_CLOCK) -> DeploymentStatus:
    """How a deployment is now; its server is asked.

    Args:
        name: The deployment.
        home: Where state is kept; as the environment says when None.
        clock: What time it is.

    Raises:
        UnknownNameError: Nothing was deployed under the name.
        DeploymentRecordError: Its record cannot be read.
    """
    folder = DeploymentFolder(name, home)
    return judge(folder, folder.known(), clock=clock)


def statuses(*, home: Path | None = None, clock: Clock = SYSTEM_CLOCK) -> tuple[DeploymentStatus, ...]:
    """How every deployment is now, by name.

    Raises:
        DeploymentRecordError: A record cannot be read.
    """
    return tuple(status(name, home=home, clock=clock) for name in deployment_names(home))


def history(name: str = DEFAULT_NAME, *, home: Path | None = None) -> tuple[Deployment, ...]:
    """What was deployed under a name and passed, the oldest first; the latest 20.

    Raises:
        UnknownNameError: Nothing was.
    """
    folder = DeploymentFolder(name, home)
    folder.known()
    return folder.history()


def judge(folder: DeploymentFolder, deployment: Deployment, *, clock: Clock = SYSTEM_CLOCK) -> DeploymentStatus:
    """How a deployment is now that a folder has the record of."""
    ending = folder.ending(deployment.id)
    if ending is not None:
        problem = "" if ending.wanted else f"its server ended: {ending.reason}"
        return DeploymentStatus(deployment=deployment, state="stopped" if ending.wanted else "dead", problem=problem)
    if not is_running(deployment.supervisor):
        problem = f"its supervisor, process {deployment.supervisor.pid}, is gone and so is its server"
        return DeploymentStatus(deployment=deployment, state="dead", problem=problem)
    uptime_s = max(0.0, (clock.time_ns() - deployment.started_ns) / 1e9)
    health = ask_health(deployment.url, backend=deployment.options.backend)
    if not health.problem:
        return DeploymentStatus(deployment=deployment, state="serving", uptime_s=uptime_s)
    if deployment.server is not None and not is_running(deployment.server):
        problem = f"its server, process {deployment.server.pid}, is gone"
        return DeploymentStatus(deployment=deployment, state="dead", problem=problem)
    state: DeploymentState = "unhealthy" if health.asked else "unknown"
    return DeploymentStatus(deployment=deployment, state=state, problem=health.problem)
