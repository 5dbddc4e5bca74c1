"""SLSA provenance v1 of an artifact: which stage made it, told what, out of what, when.

Its subjects are the files and the manifest. A parent is named by the digest of its own manifest, so
the provenance of a child leads to that of its parents. Nothing is signed here: tools that sign
in-toto statements take the file as it is.

Format: https://slsa.dev/spec/v1.0/provenance
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from llamatelemetry.artifacts.atomic import write_atomically
from llamatelemetry.artifacts.canonical import canonical_json
from llamatelemetry.artifacts.files import SUFFIX, beside
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.statement import statement
from llamatelemetry.artifacts.timestamps import format_time

PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:llamatelemetry:pipeline-stage:1"
"""``externalParameters`` are ``stage`` and ``parameters``; ``internalParameters``, the run and its span."""
BUILDER_ID: Final = "urn:llamatelemetry:pipeline"
MANIFEST_MEDIA_TYPE: Final = "application/vnd.llamatelemetry.artifact+json"
PROVENANCE_SUFFIX: Final = ".intoto.json"


def provenance(manifest: ArtifactManifest) -> dict[str, Any]:
    """The provenance of an artifact, an in-toto statement as JSON has it."""
    origin = manifest.origin
    subject = [(file.path, file.sha256) for file in manifest.files]
    subject.append((manifest.name + SUFFIX, manifest.digest))
    metadata = {
        "invocationId": origin.run_id,
        "startedOn": "" if origin.started_ns is None else format_time(origin.started_ns),
        "finishedOn": format_time(manifest.created_ns),
    }
    internal = {"runId": origin.run_id, "traceparent": origin.traceparent}
    return statement(
        subject,
        PREDICATE_TYPE,
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"stage": origin.stage, "parameters": dict(manifest.parameters)},
                "internalParameters": _told(internal),
                "resolvedDependencies": _dependencies(manifest),
            },
            "runDetails": {
                "builder": {"id": BUILDER_ID, "version": dict(manifest.tools)},
                "metadata": _told(metadata),
            },
        },
    )


def write_provenance(manifest: ArtifactManifest, artifact: Path) -> Path:
    """Writes the provenance beside an artifact, whole or not at all; returns where.

    Raises:
        ArtifactError: It cannot be written.
    """
    path = beside(artifact, PROVENANCE_SUFFIX)
    write_atomically(path, canonical_json(provenance(manifest), field="provenance"))
    return path


def _dependencies(manifest: ArtifactManifest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "name": parent.name,
            "uri": f"urn:llamatelemetry:artifact:{parent.digest}",
            "digest": {"sha256": parent.digest},
            "mediaType": MANIFEST_MEDIA_TYPE,
            "annotations": {"role": parent.role, "contentDigest": parent.content_digest},
        }
        for parent in manifest.parents
    ]
    if manifest.origin.git_commit:
        found.append({"name": "source", "digest": {"gitCommit": manifest.origin.git_commit}})
    return found


def _told(facts: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in facts.items() if text}
