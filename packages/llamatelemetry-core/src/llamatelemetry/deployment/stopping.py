"""Ends what was deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.deployment.processes import end, is_running
from llamatelemetry.deployment.record import DEFAULT_NAME, Deployment
from llamatelemetry.deployment.state import DeploymentFolder, Ending
from llamatelemetry.errors import DeploymentError

GRACE_S: Final = 10.0
"""Seconds that a server is given before it is killed."""


def stop(
    name: str = DEFAULT_NAME, *, home: Path | None = None, grace_s: float = GRACE_S, clock: Clock = SYSTEM_CLOCK
) -> Deployment:
    """Stops a deployment and returns when its processes are gone. Idempotent.

    Args:
        name: The deployment.
        home: Where state is kept; as the environment says when None.
        grace_s: Seconds that it is given before it is killed.
        clock: What time it is.

    Returns:
        What was stopped, or had been.

    Raises:
        UnknownNameError: Nothing was deployed under the name.
        DeploymentBusyError: Somebody else is changing it.
        DeploymentError: It cannot be ended.
    """
    folder = DeploymentFolder(name, home)
    folder.known()
    with folder.locked():
        deployment = folder.known()
        stop_server(folder, deployment, grace_s=grace_s, clock=clock)
    return deployment


def stop_server(
    folder: DeploymentFolder, deployment: Deployment, *, grace_s: float = GRACE_S, clock: Clock = SYSTEM_CLOCK
) -> None:
    """As :func:`stop`, where the folder is locked already.

    Raises:
        DeploymentError: It cannot be ended.
    """
    # The server goes with its supervisor; that the kernel did its part is seen to all the same.
    processes = [each for each in (deployment.supervisor, deployment.server) if each is not None]
    for process in processes:
        if not end(process, grace_s):
            raise DeploymentError(
                f"process {process.pid} of deployment {folder.name!r} cannot be ended: end it by hand"
            )
    known = folder.ending(deployment.id)
    if known is None or not known.wanted:
        folder.note_end(deployment.id, Ending(reason="it was stopped", wanted=True, ended_ns=clock.time_ns()))


def runs(deployment: Deployment | None) -> bool:
    """Whether anything of it runs."""
    return deployment is not None and (is_running(deployment.supervisor) or is_running(deployment.server))
