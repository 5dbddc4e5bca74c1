"""What a user names when a verb asks for an artifact: a path, a manifest's file, or a digest in a store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamatelemetry.artifacts.files import SUFFIX, artifact_path, manifest_path, read_manifest
from llamatelemetry.artifacts.lookup import standing_in, stored_artifact
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import ArtifactMissingError, InvalidValueError
from llamatelemetry.pipeline.definition import DEFAULT_STORE

_DIGITS: Final = re.compile("[0-9a-f]{6,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What was meant.

    Attributes:
        manifest: Its manifest.
        artifact: Where its files should be.
        store: Where what it was made from is looked for.
    """

    manifest: ArtifactManifest
    artifact: Path
    store: ArtifactStore


def find_target(named: str, store: Path | None) -> Target:
    """What a user means.

    Args:
        named: A path of an artifact, with its manifest beside it or in the store it stands in; a path of a
            manifest; or a manifest's digest in the store, or as many of its first digits as make it the only one.
        store: The store to look in; where None, the one that the path stands in, or the one of the current folder.

    Raises:
        ArtifactMissingError: There is no such artifact, or no manifest of it.
        InvalidValueError: Several manifests begin with these digits.
        ArtifactError: The manifest cannot be used.
    """
    path = Path(named)
    kept = ArtifactStore(store or standing_in(path) or DEFAULT_STORE)
    if not path.exists() and _DIGITS.fullmatch(named):
        return _by_digest(named, kept)
    if path.name.endswith(SUFFIX):
        return Target(manifest=read_manifest(path), artifact=artifact_path(path), store=kept)
    if not path.exists():
        raise ArtifactMissingError(path, f"give a path, or a digest that {kept.folder} has")
    stored = stored_artifact(path)
    if stored is not None and stored[0]:
        return Target(manifest=stored[0][-1], artifact=path, store=kept)
    try:
        return Target(manifest=read_manifest(manifest_path(path)), artifact=path, store=kept)
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
    return Target(manifest=manifest, artifact=store.path(manifest), store=store)
