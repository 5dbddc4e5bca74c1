"""A CycloneDX bill of materials for models (ML-BOM): an artifact, its files, and all that it was made from.

Equal manifests give equal bytes: the serial number is made from the digest, and the time is the
artifact's own. What CycloneDX has no field for is a property whose name begins with ``llamatelemetry:``.

Format: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from llamatelemetry.artifacts.atomic import write_atomically
from llamatelemetry.artifacts.canonical import canonical_json
from llamatelemetry.artifacts.files import beside
from llamatelemetry.artifacts.manifest import ArtifactFile, ArtifactManifest, ArtifactParent
from llamatelemetry.artifacts.timestamps import format_time

SpecVersion = Literal["1.6", "1.7"]
"""Versions of the format that can be written."""

BOM_SUFFIX: Final = ".cdx.json"
_DATA: Final = frozenset({"dataset", "report"})
_MODELS: Final = frozenset({"adapter", "checkpoint", "gguf", "model"})


def bill_of_materials(
    manifest: ArtifactManifest, ancestors: Iterable[ArtifactManifest] = (), *, spec_version: SpecVersion = "1.6"
) -> dict[str, Any]:
    """The bill of materials of an artifact, as JSON has it.

    Args:
        manifest: The artifact.
        ancestors: Manifests of what it was made from, and of what that was made from. A parent that is not
            among them is named with its digest, and what is in it stays unknown.
        spec_version: The version of CycloneDX to write.
    """
    known = {ancestor.digest: ancestor for ancestor in ancestors}
    reached = _reached(manifest, known)
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{spec_version}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": spec_version,
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, manifest.digest).urn,
        "version": 1,
        "metadata": {"timestamp": format_time(manifest.created_ns), "component": _component(manifest)},
        "components": [
            _unknown(parent) if digest not in known else _component(known[digest]) for digest, parent in reached.items()
        ],
        "dependencies": [
            _dependency(each) for each in (manifest, *(known[digest] for digest in reached if digest in known))
        ],
    }


def write_bill_of_materials(
    manifest: ArtifactManifest, artifact: Path, ancestors: Iterable[ArtifactManifest] = ()
) -> Path:
    """Writes the bill of materials beside an artifact, whole or not at all; returns where.

    Raises:
        ArtifactError: It cannot be written.
    """
    path = beside(artifact, BOM_SUFFIX)
    write_atomically(path, canonical_json(bill_of_materials(manifest, ancestors), field="bom"))
    return path


def _reached(manifest: ArtifactManifest, known: Mapping[str, ArtifactManifest]) -> dict[str, ArtifactParent]:
    """What the artifact was made from, directly or not, by digest, the nearest first."""
    found: dict[str, ArtifactParent] = {}
    waiting = list(manifest.parents)
    while waiting:
        parent = waiting.pop(0)
        if parent.digest not in found:
            found[parent.digest] = parent
            waiting += known[parent.digest].parents if parent.digest in known else ()
    return found


def _component(manifest: ArtifactManifest) -> dict[str, Any]:
    kind = "data" if manifest.kind in _DATA else "machine-learning-model" if manifest.kind in _MODELS else "file"
    component: dict[str, Any] = {
        "type": kind,
        "bom-ref": _reference(manifest.digest),
        "name": manifest.name,
        "version": manifest.content_digest,
        "properties": _properties(manifest),
    }
    if manifest.is_folder:
        component["components"] = [_file(manifest, file) for file in manifest.files]
    else:
        component["hashes"] = _hashes(manifest.files[0].sha256)
        component["mime-type"] = manifest.files[0].media_type
    if kind == "machine-learning-model":
        datasets = [
            {"ref": _reference(parent.digest)} for parent in manifest.parents if parent.role.startswith("dataset")
        ]
        component["modelCard"] = {"modelParameters": {"datasets": datasets}}
    elif manifest.kind == "dataset":
        component["data"] = [{"type": "dataset", "name": manifest.name}]
    return component


def _unknown(parent: ArtifactParent) -> dict[str, Any]:
    return {
        "type": "data" if parent.role.startswith("dataset") else "machine-learning-model",
        "bom-ref": _reference(parent.digest),
        "name": parent.name,
        "version": parent.content_digest,
    }


def _file(manifest: ArtifactManifest, file: ArtifactFile) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"{_reference(manifest.digest)}/{file.path}",
        "name": file.path,
        "mime-type": file.media_type,
        "hashes": _hashes(file.sha256),
    }


def _dependency(manifest: ArtifactManifest) -> dict[str, Any]:
    # A stage may take the same artifact in two roles; the format wants each named once.
    parents = dict.fromkeys(_reference(parent.digest) for parent in manifest.parents)
    return {"ref": _reference(manifest.digest), "dependsOn": [*parents]}


def _properties(manifest: ArtifactManifest) -> list[dict[str, str]]:
    origin = manifest.origin
    facts = {
        "kind": manifest.kind,
        "manifest": manifest.digest,
        "stage": origin.stage,
        "run": origin.run_id,
        "traceparent": origin.traceparent,
        "git_commit": origin.git_commit,
        "parameters": canonical_json(manifest.parameters).decode() if manifest.parameters else "",
        **{f"tool:{name}": version for name, version in manifest.tools.items()},
    }
    return [{"name": f"llamatelemetry:{name}", "value": value} for name, value in facts.items() if value]


def _reference(digest: str) -> str:
    return f"artifact:{digest}"


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
