"""What ``llamatelemetry doctor`` says of deployments."""

from __future__ import annotations

from pathlib import Path

from llamatelemetry.deployment.standing import DeploymentStatus, status
from llamatelemetry.deployment.state import deployment_names
from llamatelemetry.errors import DeploymentRecordError
from llamatelemetry.plugins import Check, CheckState


def checks(home: Path | None = None) -> list[Check]:
    """Asks every deployment that was not stopped how it is.

    Args:
        home: Where state is kept; as the environment says when None.
    """
    found = []
    for name in deployment_names(home):
        try:
            now = status(name, home=home)
        except DeploymentRecordError as error:
            found.append(Check(name=name, state=CheckState.ERROR, detail=str(error), fix=f"rm {error.path}"))
            continue
        if now.state != "stopped":
            found.append(_check(now))
    return found


def _check(now: DeploymentStatus) -> Check:
    deployment = now.deployment
    what = f"{deployment.model} at {deployment.url}"
    if now.state == "serving":
        return Check(name=deployment.name, state=CheckState.OK, detail=f"{what} serves")
    if now.state == "unknown":
        return Check(
            name=deployment.name,
            state=CheckState.WARNING,
            detail=f"whether {what} serves cannot be told: {now.problem}",
            fix="llamatelemetry plugins",
        )
    fix = f"look at {deployment.log}; llamatelemetry deploy {deployment.artifact} --name {deployment.name}, or "
    return Check(
        name=deployment.name,
        state=CheckState.ERROR,
        detail=f"{what} is {now.state}: {now.problem}",
        fix=f"{fix}llamatelemetry deploy stop --name {deployment.name}",
    )
