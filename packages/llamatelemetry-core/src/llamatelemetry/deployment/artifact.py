"""What somebody means by an artifact, and the proof that it is what was made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamatelemetry.artifacts.files import SUFFIX, artifact_path, manifest_path, read_manifest, verify_files
from llamatelemetry.artifacts.hashing import HashProgress, hash_files
from llamatelemetry.artifacts.lookup import describe_file
from llamatelemetry.artifacts.manifest import ArtifactFile, ArtifactManifest, ArtifactOrigin
from llamatelemetry.artifacts.signing import verify_signatures
from llamatelemetry.deployment.record import Standing
from llamatelemetry.errors import (
    ArtifactMissingError,
    ArtifactTamperedError,
    InvalidValueError,
    UnverifiedArtifactError,
)

_MODEL: Final = ".gguf"
Tell = Callable[[HashProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model, before anything was proved.

    Attributes:
        model: Its file.
        artifact: The file or folder that the manifest is of.
        manifest: The manifest; None where nothing describes the file.
    """

    model: Path
    artifact: Path
    manifest: ArtifactManifest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """A model that may be served.

    Attributes:
        model: Its file.
        sha256: SHA-256 of the file.
        standing: How far it was proved.
        manifest: The manifest; None where nothing describes the file.
    """

    model: Path
    sha256: str
    standing: Standing
    manifest: ArtifactManifest | None

    @property
    def origin(self) -> ArtifactOrigin:
        """The run that made it; empty where that is not known."""
        return ArtifactOrigin() if self.manifest is None else self.manifest.origin


def find_artifact(path: Path) -> Found:
    """The model that a path means: a model file, a manifest, or a folder that holds one of either.

    Symbolic links are followed first: manifests and what they describe stand beside each other.

    Raises:
        ArtifactMissingError: There is nothing, or no model in it.
        InvalidValueError: There are several.
        ArtifactError: The manifest cannot be used.
    """
    if not path.exists():
        raise ArtifactMissingError(path, "give a GGUF file, its manifest, or a folder that holds one")
    path = path.resolve()
    if path.name.endswith(SUFFIX):
        return described(artifact_path(path), read_manifest(path))
    if not path.is_dir():
        entry = describe_file(path)
        if entry is None:
            return Found(model=path, artifact=path, manifest=None)
        # The manifest may be of the folder that the file stands in, which then is what is proved.
        inside = entry.manifest.is_folder
        root = path.parents[len(entry.file.path.split("/")) - 1] if inside else path
        return Found(model=path, artifact=root, manifest=entry.manifest)
    if (beside := manifest_path(path)).exists():
        return described(path, read_manifest(beside))
    models = sorted(path.glob(f"*{_MODEL}"))
    # Of several, one that has a manifest is meant: the others may be what it was made from.
    return find_artifact(_only(path, [each for each in models if manifest_path(each).exists()] or models))


def prove(
    found: Found,
    *,
    public_key: Path | None = None,
    allow_unverified: bool = False,
    expected_sha256: str | None = None,
    progress: Tell | None = None,
) -> Proved:
    """Holds a model to what describes it. Every byte is read.

    Args:
        found: The model.
        public_key: Whose signatures the artifact and its manifest must have.
        allow_unverified: Whether a model may be used that nothing describes.
        expected_sha256: What the file must be, whatever describes it.
        progress: Told how far the hashing is.

    Raises:
        ArtifactTamperedError: A file is missing, added, cut short or changed; it is named.
        UnverifiedArtifactError: Nothing describes it, and that was not allowed.
        SignatureError: A signature is missing, or is not of that key.
        ArtifactError: The subclass says what else is wrong.
    """
    manifest = found.manifest
    if manifest is None:
        if public_key is not None:
            raise UnverifiedArtifactError(found.model, "create a manifest and sign it, or leave the key out")
        if not allow_unverified:
            fix = f"run llamatelemetry manifest create {found.model.name}, or allow it with --allow-unverified"
            raise UnverifiedArtifactError(found.model, fix)
        sha256 = hash_files([found.model], progress=progress)[0].sha256
    else:
        sha256 = _entry(found, manifest).sha256
        verify_files(manifest, found.artifact, progress=progress)
        if public_key is not None:
            manifest = verify_signatures(found.artifact, public_key=public_key)
    if expected_sha256 not in {None, sha256}:
        problem = f"{found.model.name} has the SHA-256 {sha256[:12]}... and was deployed with {expected_sha256:.12}..."
        raise ArtifactTamperedError(found.model, (problem,))
    standing: Standing = "signed" if public_key else "unverified" if manifest is None else "verified"
    return Proved(model=found.model, sha256=sha256, standing=standing, manifest=manifest)


def described(artifact: Path, manifest: ArtifactManifest) -> Found:
    """The model in an artifact whose manifest is known.

    Raises:
        ArtifactMissingError: The artifact is not there, or holds no model.
        InvalidValueError: It holds several.
    """
    if not artifact.exists():
        raise ArtifactMissingError(artifact, "its manifest is there; put the artifact back beside it")
    if not manifest.is_folder:
        return Found(model=artifact, artifact=artifact, manifest=manifest)
    models = [artifact / file.path for file in manifest.files if file.path.endswith(_MODEL)]
    return Found(model=_only(artifact, models), artifact=artifact, manifest=manifest)


def _only(folder: Path, candidates: list[Path]) -> Path:
    if not candidates:
        raise ArtifactMissingError(folder / f"*{_MODEL}", "the folder holds no GGUF file; give one that does")
    if len(candidates) > 1:
        names = ", ".join(each.name for each in candidates[:5])
        raise InvalidValueError("artifact", str(folder), f"it holds {len(candidates)} models; give one of {names}")
    return candidates[0]


def _entry(found: Found, manifest: ArtifactManifest) -> ArtifactFile:
    if not manifest.is_folder:
        return manifest.files[0]
    within = found.model.relative_to(found.artifact).as_posix()
    return next(file for file in manifest.files if file.path == within)
