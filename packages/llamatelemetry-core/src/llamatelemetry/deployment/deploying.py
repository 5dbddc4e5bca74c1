"""Puts a model behind a server: verify, plan, start, ask, switch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llamatelemetry.artifacts.hashing import HashProgress
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.deployment.artifact import find_artifact
from llamatelemetry.deployment.attempt import carry_out
from llamatelemetry.deployment.order import Order, order_of
from llamatelemetry.deployment.record import DEFAULT_NAME, Deployment, ServeOptions
from llamatelemetry.deployment.state import DeploymentFolder
from llamatelemetry.errors import UnknownNameError


def deploy(
    artifact: Path | str,
    *,
    name: str = DEFAULT_NAME,
    port: int | None = None,
    options: ServeOptions | None = None,
    public_key: Path | None = None,
    allow_unverified: bool = False,
    progress: Callable[[HashProgress], None] | None = None,
    home: Path | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Deployment:
    """Puts a model behind a server that goes on when this program ends.

    The one that has the name already is stopped when the new one has passed, or, where both want the same
    port, before the new one starts. Whatever fails, it serves again afterwards or was never stopped.

    Args:
        artifact: A GGUF file with its manifest beside it or in the store that it stands in; a manifest; or
            a folder that holds one.
        name: What to call the deployment.
        port: Port on 127.0.0.1; 0 for a free one. Where None the one before keeps its port for the new
            one, and the first has a free one.
        options: How it is to be served.
        public_key: Whose signatures the artifact and its manifest must have.
        allow_unverified: Whether a model may be served that nothing describes.
        progress: Told how far the hashing is.
        home: Where state is kept; as the environment says when None.
        clock: What time it is.

    Raises:
        InvalidValueError: The name or the port cannot be used.
        DeploymentBusyError: Somebody else is changing the deployment.
        DeploymentFailedError: It was not carried out; ``step``, ``cause`` and ``rollback`` say what and why.
    """
    order = Order(
        found=lambda: find_artifact(Path(artifact)),
        name=name,
        port=port,
        options=options or ServeOptions(),
        public_key=public_key,
        allow_unverified=allow_unverified,
        progress=progress,
        home=home,
        clock=clock,
    )
    return carry_out(order)[0]


def rollback(
    name: str = DEFAULT_NAME,
    *,
    progress: Callable[[HashProgress], None] | None = None,
    home: Path | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Deployment:
    """Deploys again what was deployed before the current one, as it was deployed then.

    Raises:
        UnknownNameError: Nothing was deployed under the name, or nothing else before it.
        DeploymentFailedError: It was not carried out.
    """
    folder = DeploymentFolder(name, home)
    current = folder.known()
    same = (current.sha256, current.options)
    before = [each for each in folder.history() if each.id < current.id and (each.sha256, each.options) != same]
    if not before:
        raise UnknownNameError("earlier deployment", name, (), "Nothing else was deployed under the name before.")
    return carry_out(replace(order_of(before[-1], port=current.port), progress=progress, home=home, clock=clock))[0]
