"""Which manifest describes a file, wherever the file stands: alone, in a folder, or in a store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamatelemetry.artifacts.files import manifest_path, read_manifest
from llamatelemetry.artifacts.manifest import ArtifactFile, ArtifactManifest
from llamatelemetry.artifacts.store import OBJECTS, ArtifactStore
from llamatelemetry.errors import ArtifactMissingError, ArtifactTamperedError

_DIGEST: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedFile:
    """A file and the manifest that describes it. Nothing was hashed.

    Attributes:
        manifest: The manifest.
        file: The file's entry in it.
    """

    manifest: ArtifactManifest
    file: ArtifactFile


def describe_file(path: Path) -> DescribedFile | None:
    """The manifest of a file: beside it, in the store that it stands in, or beside the folder that it stands in.

    None where there is none.

    Raises:
        InvalidManifestError: What stands in a manifest's place is none.
        ArtifactTamperedError: The manifest is of something else.
        ArtifactError: It cannot be read.
    """
    path = path.absolute()
    if beside := _read(manifest_path(path)):
        return _entry(beside, path, beside.files[0].path if not beside.is_folder else "")
    if (kept := stored_artifact(path)) is not None:
        manifests, within = kept
        # The oldest is of the run that made the bytes; those after it found them there.
        return _entry(manifests[-1], path, within) if manifests else None
    if path.parent.name and (around := _read(manifest_path(path.parent))):
        return _entry(around, path, path.name)
    return None


def stored_artifact(path: Path) -> tuple[tuple[ArtifactManifest, ...], str] | None:
    """The manifests of what stands in a store, and where the path is in it; None for a path in no store.

    Raises:
        ArtifactError: A manifest of the store cannot be read or is not what its name says.
    """
    path = path.absolute()
    place = _object(path)
    if place is None:
        return None
    return ArtifactStore(place.parent.parent).made(place.name), path.relative_to(place).as_posix()


def standing_in(path: Path) -> Path | None:
    """The folder of the store that something stands in; None for a path in no store."""
    place = _object(path.absolute())
    return None if place is None else place.parent.parent


def _object(path: Path) -> Path | None:
    places = (path, *path.parents)
    return next((each for each in places if _DIGEST.fullmatch(each.name) and each.parent.name == OBJECTS), None)


def _read(path: Path) -> ArtifactManifest | None:
    try:
        return read_manifest(path)
    except ArtifactMissingError:
        return None


def _entry(manifest: ArtifactManifest, path: Path, within: str) -> DescribedFile:
    found = next((file for file in manifest.files if file.path == within), None)
    if found is None:
        raise ArtifactTamperedError(path, (f"{path.name} is not in the manifest of {manifest.name}",))
    return DescribedFile(manifest=manifest, file=found)
