"""Names of what a deployment does: its span, or that of the stage it is, and those of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.gen_ai import ERROR_TYPE, GENERAL
from llamatelemetry.semconv.profiles import mapping_of

DEPLOY_SPAN: Final = "deploy"
"""Name of the span of a deployment. In a pipeline it is the span of the stage of that name."""

StepName = Literal["verify", "plan", "start", "smoke", "health", "stop", "roll_back"]
"""What a deployment does, each a span within its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployFacts:
    """What is known of a deployment. None is not known."""

    name: str
    deployment_id: str | None = None
    artifact_sha256: str | None = None
    manifest_digest: str | None = None
    standing: str | None = None
    outcome: str | None = None
    rollback: str | None = None
    server_address: str | None = None
    server_port: int | None = None
    error_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployStepFacts:
    """What is known of one step of a deployment. None is not known."""

    name: str
    step: str
    needed_bytes: int | None = None
    free_bytes: int | None = None
    pid: int | None = None
    error_type: str | None = None


DEPLOY_NAME: Final = Attribute(
    "llamatelemetry.deploy.name", "string", "name", "The deployment's name.", requirement="required", at_start=True
)
DEPLOY_STEP: Final = Attribute(
    "llamatelemetry.deploy.step",
    "string",
    "step",
    "What was done: verify, plan, start, smoke, health, stop or roll_back; also the span's name.",
    requirement="required",
    at_start=True,
)

DEPLOY: Final = (
    DEPLOY_NAME,
    Attribute(
        "llamatelemetry.deploy.id", "string", "deployment_id", "This one of those that had the name.", at_start=True
    ),
    Attribute("llamatelemetry.deploy.artifact.sha256", "string", "artifact_sha256", "SHA-256 of the model file."),
    Attribute("llamatelemetry.deploy.artifact.manifest", "string", "manifest_digest", "Digest of its manifest."),
    Attribute(
        "llamatelemetry.deploy.artifact.standing",
        "string",
        "standing",
        "How far it was proved: signed, verified or unverified.",
    ),
    Attribute("llamatelemetry.deploy.outcome", "string", "outcome", "What came of it: serving or failed."),
    Attribute(
        "llamatelemetry.deploy.rollback",
        "string",
        "rollback",
        "What became of the one before, where it failed: none, kept, restarted or failed.",
    ),
    *GENERAL,
)
"""On the span of a deployment; on that of a stage, beside what every stage says."""

DEPLOY_STAGE: Final = tuple(row for row in DEPLOY if row != ERROR_TYPE)
"""Those that a stage's span does not have anyway."""

DEPLOY_STEPS: Final = (
    DEPLOY_NAME,
    DEPLOY_STEP,
    Attribute(
        "llamatelemetry.deploy.memory.needed",
        "int",
        "needed_bytes",
        "Memory that the plan takes, on the host and on all GPUs.",
        unit="By",
    ),
    Attribute(
        "llamatelemetry.deploy.memory.free",
        "int",
        "free_bytes",
        "Memory that there was where the plan puts it.",
        unit="By",
    ),
    Attribute("process.pid", "int", "pid", "The server's process."),
    ERROR_TYPE,
)
"""On the span of a step."""

deploy_attributes: Final = mapping_of(DEPLOY)
"""From :class:`DeployFacts` to attributes."""

deploy_step_attributes: Final = mapping_of(DEPLOY_STEPS)
"""From :class:`DeployStepFacts` to attributes."""
