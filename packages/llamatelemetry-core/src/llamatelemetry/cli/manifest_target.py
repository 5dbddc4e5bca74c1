"""What a user names when a verb asks for an artifact: a path, a manifest's file, or a digest in a store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamatelemetry.artifacts.files import SUFFIX, artifact_path, manifest_path, read_manifest
from llamatelemetry.artifacts.lookup import stored_artifact
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import ArtifactMissingError, InvalidValueError

_DIGITS: Final = re.compile("[0-9a-f]{6,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What was meant.

    Attributes:
        manifest: Its manifest.
        artifact: Where its files should be.
    """

    manifest: ArtifactManifest
    artifact: Path


def find_target(named: str, store: Path) -> Target:
    """What a user means.

    Args:
        named: A path of an artifact, with its manifest beside it or in the store it stands in; a path of a
            manifest; or a manifest's digest in the store, or as many of its first digits as make it the only one.
        store: The store to look in.

    Raises:
        ArtifactMissingError: There is no such artifact, or no manifest of it.
        InvalidValueError: Several manifests begin with these digits.
        ArtifactError: The manifest cannot be used.
    """
    path = Path(named)
    if not path.exists() and _DIGITS.fullmatch(named):
        return _by_digest(named, ArtifactStore(store))
    if path.name.endswith(SUFFIX):
        return Target(manifest=read_manifest(path), artifact=artifact_path(path))
    if not path.exists():
        raise ArtifactMissingError(path, f"give a path, or a digest that {store} has")
    kept = stored_artifact(path)
    if kept is not None and kept[0]:
        return Target(manifest=kept[0][-1], artifact=path)
    try:
        return Target(manifest=read_manifest(manifest_path(path)), artifact=path)
    except ArtifactMissingError as error:
        fix = f"run llamatelemetry manifest create {named}, if you trust what is there"
        raise ArtifactMissingError(error.name, fix) from None


def _by_digest(digits: str, store: ArtifactStore) -> Target:
    found = store.digests(digits)
    if not found:
        raise ArtifactMissingError(digits, f"no manifest in {store.folder} has a digest that begins so")
    if len(found) > 1:
        raise InvalidValueError("digest", digits, f"{len(found)} manifests begin so; give more digits")
    manifest = store.get(found[0])
    return Target(manifest=manifest, artifact=store.path(manifest))
