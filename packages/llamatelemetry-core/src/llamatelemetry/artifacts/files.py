"""Manifests and the files they describe: making one, writing it beside them, and holding them to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from llamatelemetry.artifacts.atomic import write_atomically
from llamatelemetry.artifacts.hashing import HashProgress, hash_files, open_unchanging
from llamatelemetry.artifacts.manifest import (
    MAX_MANIFEST_BYTES,
    ArtifactFile,
    ArtifactManifest,
    ArtifactOrigin,
    ArtifactParent,
)
from llamatelemetry.artifacts.media_types import media_type
from llamatelemetry.artifacts.parsing import parse_manifest
from llamatelemetry.artifacts.tree import is_folder, list_files
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.errors import (
    ArtifactChangedError,
    ArtifactMissingError,
    ArtifactTamperedError,
    InvalidManifestError,
)

SUFFIX: Final = ".manifest.json"
"""What a manifest is called after its artifact's name."""


class Difference(StrEnum):
    """How a file is not what the manifest says."""

    MISSING = "missing"
    ADDED = "added"
    TRUNCATED = "truncated"
    GROWN = "grown"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One file that is not what the manifest says.

    Attributes:
        path: The file, as the manifest names it.
        difference: How it differs.
        detail: The figures, for people.
    """

    path: str
    difference: Difference
    detail: str

    def __str__(self) -> str:
        return f"{self.path} {self.detail}"


def beside(artifact: Path, suffix: str) -> Path:
    """The path beside an artifact that has its name and a suffix after it.

    Raises:
        InvalidManifestError: The artifact has no name: it is the root of all.
    """
    named = artifact.resolve() if artifact.name in {"", ".."} else artifact
    if not named.name:
        raise InvalidManifestError("path", str(artifact), "give a file or folder that has a name")
    return named.with_name(named.name + suffix)


def manifest_path(artifact: Path) -> Path:
    """Where an artifact's manifest stands: beside it, with :data:`SUFFIX` after its name."""
    return beside(artifact, SUFFIX)


def artifact_path(manifest: Path) -> Path:
    """The artifact that a manifest stands beside.

    Raises:
        InvalidManifestError: The file is not named like a manifest.
    """
    if not manifest.name.endswith(SUFFIX) or manifest.name == SUFFIX:
        raise InvalidManifestError("path", str(manifest), f"a manifest is named like its artifact, with {SUFFIX} after")
    return manifest.with_name(manifest.name.removesuffix(SUFFIX))


def create_manifest(
    path: Path,
    *,
    kind: str,
    name: str = "",
    parents: Sequence[ArtifactParent] = (),
    origin: ArtifactOrigin = ArtifactOrigin(),  # noqa: B008  It is frozen.
    parameters: Mapping[str, Any] | None = None,
    tools: Mapping[str, str] | None = None,
    clock: Clock = SYSTEM_CLOCK,
    workers: int | None = None,
    progress: Callable[[HashProgress], None] | None = None,
) -> ArtifactManifest:
    """Hashes a file, or a folder and all below it, and says what it is. Nothing is written.

    Args:
        path: The artifact.
        kind: What it is, for example ``gguf``.
        name: What people call it; the name of the file or folder where empty.
        parents: What it was made from.
        origin: The run that made it.
        parameters: What the stage was told.
        tools: What made it, with versions.
        clock: Says when it was made.
        workers: Threads to hash with; as :func:`~llamatelemetry.artifacts.hashing.hash_files`.
        progress: Told how far it is.

    Raises:
        ArtifactError: The subclass says what is wrong: nothing there, a symbolic link, a file that changed.
    """
    folder, paths = _contents(path)
    digests = hash_files([path / each if folder else path for each in paths], workers=workers, progress=progress)
    _check_unmoved(path, paths)
    files = tuple(
        ArtifactFile(path=each, size_bytes=digest.size_bytes, sha256=digest.sha256, media_type=media_type(each))
        for each, digest in zip(paths, digests, strict=True)
    )
    return ArtifactManifest(
        name=name or path.resolve().name,
        kind=kind,
        files=files,
        created_ns=clock.time_ns(),
        is_folder=folder,
        parents=tuple(parents),
        origin=origin,
        parameters=parameters or {},
        tools=tools or {},
    )


def write_manifest(manifest: ArtifactManifest, artifact: Path) -> Path:
    """Writes a manifest beside its artifact, whole or not at all; returns where.

    Raises:
        ArtifactError: It cannot be written.
    """
    path = manifest_path(artifact)
    write_atomically(path, manifest.to_bytes())
    return path


def read_manifest(path: Path) -> ArtifactManifest:
    """Reads a manifest's file. The files that it describes are not looked at.

    Raises:
        InvalidManifestError: It is no manifest, or not in its one form; the error names the field.
        ArtifactMissingError: It is not there.
        ArtifactError: It cannot be read.
    """
    with open_unchanging(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    return parse_manifest(content, path=str(path))


def load_artifact(
    path: Path, *, workers: int | None = None, progress: Callable[[HashProgress], None] | None = None
) -> ArtifactManifest:
    """The manifest beside an artifact, once every file was found to be what it says.

    Raises:
        ArtifactMissingError: There is no such artifact, or no manifest of it.
        ArtifactTamperedError: A file is missing, added, cut short or changed.
        ArtifactError: The subclass says what else is wrong.
    """
    try:
        manifest = read_manifest(manifest_path(path))
    except ArtifactMissingError as error:
        raise ArtifactMissingError(error.name, "an artifact without a manifest is not trusted; create one") from None
    verify_files(manifest, path, workers=workers, progress=progress)
    return manifest


def verify_files(
    manifest: ArtifactManifest,
    path: Path,
    *,
    workers: int | None = None,
    progress: Callable[[HashProgress], None] | None = None,
) -> None:
    """Holds an artifact to its manifest.

    Raises:
        ArtifactTamperedError: A file is missing, added, cut short or changed; each is named.
        ArtifactError: The subclass says what else is wrong.
    """
    if findings := compare_files(manifest, path, workers=workers, progress=progress):
        raise ArtifactTamperedError(path, tuple(str(finding) for finding in findings))


def compare_files(
    manifest: ArtifactManifest,
    path: Path,
    *,
    workers: int | None = None,
    progress: Callable[[HashProgress], None] | None = None,
) -> tuple[Finding, ...]:
    """Every file that is not what the manifest says, in the order of paths; none where all are.

    A single file may have been given another name; in a folder names count. What has another size is not hashed.

    Raises:
        ArtifactMissingError: The artifact is not there at all.
        UnsafePathError: There is a symbolic link or a special file.
        ArtifactChangedError: A file changed meanwhile.
        ArtifactError: Something cannot be read.
    """
    folder, paths = _contents(path)
    if folder != manifest.is_folder:
        wanted = "a folder" if manifest.is_folder else "one file"
        return (Finding(path=path.name, difference=Difference.CHANGED, detail=f"is not {wanted}"),)
    if not folder:
        paths = (manifest.files[0].path,)
    there = set(paths)
    known = {file.path: file for file in manifest.files}
    findings = [
        Finding(path=each, difference=Difference.ADDED, detail="was added") for each in paths if each not in known
    ]
    same_size = []
    for file in manifest.files:
        if file.path not in there:
            findings.append(Finding(path=file.path, difference=Difference.MISSING, detail="is missing"))
        elif finding := _other_size(file, path / file.path if folder else path):
            findings.append(finding)
        else:
            same_size.append(file)
    locations = [path / file.path if folder else path for file in same_size]
    digests = hash_files(locations, workers=workers, progress=progress)
    _check_unmoved(path, paths)
    findings += [
        Finding(
            path=file.path,
            difference=Difference.CHANGED,
            detail=f"has the SHA-256 {digest.sha256[:12]}... instead of {file.sha256[:12]}...",
        )
        for file, digest in zip(same_size, digests, strict=True)
        if digest.sha256 != file.sha256
    ]
    return tuple(sorted(findings, key=lambda finding: finding.path.split("/")))


def _contents(path: Path) -> tuple[bool, tuple[str, ...]]:
    """Whether it is a folder, and its files."""
    return (True, list_files(path)) if is_folder(path) else (False, (path.name,))


def _check_unmoved(path: Path, paths: Sequence[str]) -> None:
    """A file that came or went while others were hashed would otherwise be missed."""
    if is_folder(path) and list_files(path) != tuple(paths):
        raise ArtifactChangedError(path)


def _other_size(file: ArtifactFile, location: Path) -> Finding | None:
    try:
        size = location.lstat().st_size
    except OSError:
        raise ArtifactChangedError(location) from None
    if size == file.size_bytes:
        return None
    shorter = size < file.size_bytes
    return Finding(
        path=file.path,
        difference=Difference.TRUNCATED if shorter else Difference.GROWN,
        detail=f"{'is cut short' if shorter else 'has grown'}: {size} bytes instead of {file.size_bytes}",
    )
