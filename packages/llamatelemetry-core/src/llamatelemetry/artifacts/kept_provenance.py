"""The provenance of what a store keeps, beside its manifest: written with it, and held to it afterwards."""

from __future__ import annotations

from pathlib import Path

from llamatelemetry.artifacts.atomic import write_atomically
from llamatelemetry.artifacts.canonical import canonical_json
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.provenance import PROVENANCE_SUFFIX, provenance
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.artifacts.tree import unreadable
from llamatelemetry.errors import ArtifactMissingError, ArtifactTamperedError

__all__ = ["check_provenance", "keep_provenance", "provenance_path"]


def provenance_path(store: ArtifactStore, manifest: ArtifactManifest) -> Path:
    """Where the provenance of an artifact is in a store, or would be."""
    return store.manifests_folder / f"{manifest.digest}{PROVENANCE_SUFFIX}"


def keep_provenance(store: ArtifactStore, manifest: ArtifactManifest) -> Path:
    """Writes the provenance of an artifact that a store keeps, whole or not at all; returns where.

    Raises:
        ArtifactError: It cannot be written.
    """
    path = provenance_path(store, manifest)
    write_atomically(path, _content(manifest))
    return path


def check_provenance(store: ArtifactStore, manifest: ArtifactManifest) -> None:
    """Holds the provenance that a store keeps of an artifact to its manifest, which decides every byte of it.

    Raises:
        ArtifactMissingError: There is none.
        ArtifactTamperedError: It says something else.
        ArtifactError: It cannot be read.
    """
    path, wanted = provenance_path(store, manifest), _content(manifest)
    try:
        with path.open("rb") as file:
            found = file.read(len(wanted) + 1)
    except FileNotFoundError:
        raise ArtifactMissingError(path.name, f"no provenance of it is in {store.folder}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if found != wanted:
        raise ArtifactTamperedError(path, (f"{path.name} does not say what its manifest says",))


def _content(manifest: ArtifactManifest) -> bytes:
    return canonical_json(provenance(manifest), field="provenance")
