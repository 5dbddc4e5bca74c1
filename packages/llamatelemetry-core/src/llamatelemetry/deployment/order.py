"""What is to be deployed, and how, as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llamatelemetry.artifacts.hashing import HashProgress
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.deployment.artifact import Found, find_artifact
from llamatelemetry.deployment.record import DEFAULT_NAME, Deployment, ServeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be deployed, and how.

    Attributes:
        found: Finds the model.
        name: The deployment's name.
        port: The port; 0 for a free one; where None the port that the one before has, or a free one.
        options: How it is to be served.
        public_key: Whose signatures the artifact must have.
        allow_unverified: Whether a model may be served that nothing describes.
        expected_sha256: What the model file must be, whatever describes it.
        detached: The server may outlive this process.
        of_stage: It is a stage of a pipeline, whose span is open.
        progress: Told how far the hashing is.
        home: Where state is kept; as the environment says when None.
        clock: What time it is.
    """

    found: Callable[[], Found]
    name: str = DEFAULT_NAME
    port: int | None = None
    options: ServeOptions = ServeOptions()  # noqa: RUF009  It is frozen.
    public_key: Path | None = None
    allow_unverified: bool = False
    expected_sha256: str | None = None
    detached: bool = True
    of_stage: bool = False
    progress: Callable[[HashProgress], None] | None = None
    home: Path | None = None
    clock: Clock = SYSTEM_CLOCK


def order_of(deployment: Deployment, *, port: int | None) -> Order:
    """What deploys the same again: the same bytes or none."""
    return Order(
        found=lambda: find_artifact(deployment.artifact),
        name=deployment.name,
        port=port,
        options=deployment.options,
        public_key=deployment.public_key,
        allow_unverified=deployment.public_key is None,  # What it has to be is known anyway.
        expected_sha256=deployment.sha256,
    )
