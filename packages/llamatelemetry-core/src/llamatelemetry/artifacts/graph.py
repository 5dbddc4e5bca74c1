"""What an artifact was made from, and what that was made from, as far as a store knows."""

from __future__ import annotations

from dataclasses import dataclass

from llamatelemetry.artifacts.manifest import ArtifactManifest, ArtifactParent
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import ArtifactError, ArtifactMissingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestry:
    """An artifact and its ancestors.

    Attributes:
        root: The artifact.
        found: Manifests by digest, the root first, then the nearest ancestors first.
        missing: Parents whose manifests the store does not have.
        damaged: Digests of manifests that cannot be used to what is wrong with each.
    """

    root: ArtifactManifest
    found: dict[str, ArtifactManifest]
    missing: dict[str, ArtifactParent]
    damaged: dict[str, str]

    @property
    def whole(self) -> bool:
        """True where every ancestor is known, to the last."""
        return not self.missing and not self.damaged


def ancestry(root: ArtifactManifest, store: ArtifactStore) -> Ancestry:
    """Follows parents through a store. It ends: a manifest cannot name one that did not exist before it."""
    found = {root.digest: root}
    missing: dict[str, ArtifactParent] = {}
    damaged: dict[str, str] = {}
    waiting = list(root.parents)
    while waiting:
        parent = waiting.pop(0)
        if parent.digest in found or parent.digest in missing or parent.digest in damaged:
            continue
        try:
            manifest = store.get(parent.digest)
        except ArtifactMissingError:
            missing[parent.digest] = parent
        except ArtifactError as error:
            damaged[parent.digest] = str(error)
        else:
            found[parent.digest] = manifest
            waiting += manifest.parents
    return Ancestry(root=root, found=found, missing=missing, damaged=damaged)
