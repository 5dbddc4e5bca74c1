"""What a pipeline is given from outside, as artifacts: with the manifest beside it, or one made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llamatelemetry.artifacts.files import create_manifest, load_artifact, manifest_path, verify_files
from llamatelemetry.artifacts.hashing import HashProgress
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.artifacts.tree import is_folder, list_files, unreadable
from llamatelemetry.clock import Clock
from llamatelemetry.errors import PipelineDefinitionError
from llamatelemetry.pipeline.nodes import GIVEN
from llamatelemetry.pipeline.stage import Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was given, and how its files were before they were hashed.

    Attributes:
        artifact: The artifact.
        files: Of each file its path, size, inode and times.
    """

    artifact: Artifact
    files: tuple[tuple[object, ...], ...]

    def check_unchanged(self) -> None:
        """Holds it to its manifest again if a file was touched: hours may be between hashing and reading.

        Raises:
            ArtifactTamperedError: A file is not what it was; each is named.
            ArtifactError: The subclass says what else is wrong.
        """
        if _files(self.artifact.path) != self.files:
            verify_files(self.artifact.manifest, self.artifact.path)


def take_in(
    name: str,
    path: Path,
    kind: str,
    *,
    store: ArtifactStore,
    progress: Callable[[HashProgress], None] | None = None,
) -> Given:
    """A file or folder as an artifact; it stays where it is.

    Args:
        name: What the pipeline calls it.
        path: Where it is; a symbolic link to it is followed.
        kind: What it is taken for.
        store: Keeps its manifest, so that what is made of it can be followed back.
        progress: Told how far the hashing is.

    Raises:
        PipelineDefinitionError: Its manifest says that it is something else.
        ArtifactMissingError: Nothing is there.
        ArtifactTamperedError: It is not what the manifest beside it says.
        ArtifactError: The subclass says what else is wrong.
    """
    path = path.resolve()
    files = _files(path)
    if manifest_path(path).exists():
        manifest = load_artifact(path, progress=progress)
        if manifest.kind != kind:
            fix = f"its manifest says that it is a {manifest.kind}, and it is taken for a {kind}"
            raise PipelineDefinitionError(f"{GIVEN}.{name}", str(path), fix)
    else:
        # As old as its newest file, so that the same files have the same manifest in every run.
        made = Clock(time_ns=lambda: _newest_ns(path))
        manifest = create_manifest(path, kind=kind, clock=made, progress=progress)
    store.note(manifest)
    return Given(artifact=Artifact(path=path, manifest=manifest), files=files)


def _files(path: Path) -> tuple[tuple[object, ...], ...]:
    found = [path / each for each in list_files(path)] if is_folder(path) else [path]
    try:
        states = [(each, each.lstat()) for each in found]
    except OSError as error:
        raise unreadable(path, error) from None
    return tuple(
        (each, state.st_size, state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)
        for each, state in states
    )


def _newest_ns(path: Path) -> int:
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return max((file.stat().st_mtime_ns for file in files), default=0)
