"""A folder of artifacts, each found by what it holds, by its manifest, or by the recipe it was made by.

::

    objects/<content digest>/   the files, read-only; the same content is there once
    manifests/<digest>.json     every manifest, under the digest that its children know it by
    manifests/<digest>.intoto.json   provenance of what a stage of a pipeline made
    recipes/<recipe digest>     digest of the manifest that was made by this recipe last, and a check of both

Nothing becomes visible before it is whole: files come under a temporary name and are renamed. Two
processes may add to one store; the same content comes out once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from llamatelemetry.artifacts import checks
from llamatelemetry.artifacts.atomic import sync_folder, write_atomically
from llamatelemetry.artifacts.files import read_manifest, verify_files
from llamatelemetry.artifacts.filling import folder_to_fill
from llamatelemetry.artifacts.hashing import HashProgress
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.tree import is_folder, list_files, unreadable
from llamatelemetry.errors import ArtifactError, ArtifactMissingError, ArtifactTamperedError

OBJECTS: Final = "objects"
"""The folder of the files."""
_DIGEST_DIGITS: Final = 64


class ArtifactStore:
    """Artifacts and their manifests in one folder, addressed by content.

    Methods may be called from several threads and processes.

    Args:
        folder: Where it is; made when something is added first.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder: Path = Path(folder)
        self._objects = self.folder / OBJECTS
        self.manifests_folder: Path = self.folder / "manifests"
        """Where manifests and what goes with them are; made when something is added first."""
        self._recipes = self.folder / "recipes"

    def add(
        self,
        manifest: ArtifactManifest,
        path: Path,
        *,
        move: bool = False,
        progress: Callable[[HashProgress], None] | None = None,
    ) -> Path:
        """Takes an artifact in, held to its manifest; returns where it is from now on.

        Where the store has the same content already, that is kept, unless it was damaged: then the new takes
        its place.

        Args:
            manifest: What the artifact is.
            path: The artifact.
            move: True to take the files themselves where they are on the same disk; otherwise they are copied.
            progress: Told how far the hashing is.

        Raises:
            ArtifactTamperedError: The artifact is not what the manifest says; the store is as it was.
            ArtifactError: The subclass says what else is wrong.
        """
        place = self._objects / manifest.content_digest
        try:
            for folder in (self._objects, self.manifests_folder, self._recipes):
                folder.mkdir(parents=True, exist_ok=True)
            if not self._is_whole(manifest):
                self._take(manifest, path, place, move=move, progress=progress)
            elif not self._holds(path):
                # It is not taken, and is held to its manifest all the same: a wrong path must not go unnoticed.
                verify_files(manifest, path, progress=progress)
            if move and os.path.lexists(path) and not self._holds(path):
                _remove(path)
        except ArtifactMissingError:
            raise  # It is an OSError too.
        except OSError as error:
            raise unreadable(place, error) from None
        digest = manifest.digest
        write_atomically(self.manifests_folder / f"{digest}.json", manifest.to_bytes())
        write_atomically(self._recipes / manifest.recipe_digest, _recipe_line(manifest.recipe_digest, digest))
        return self.path(manifest)

    def note(self, manifest: ArtifactManifest) -> None:
        """Keeps the manifest of an artifact that stays where it is, so that what is made of it leads back to it.

        Raises:
            ArtifactError: It cannot be written.
        """
        try:
            self.manifests_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unreadable(self.manifests_folder, error) from None
        write_atomically(self.manifests_folder / f"{manifest.digest}.json", manifest.to_bytes())

    def get(self, digest: str) -> ArtifactManifest:
        """The manifest of that digest. Its files are not looked at: :meth:`verify` does.

        Raises:
            ArtifactMissingError: The store has none.
            ArtifactTamperedError: What stands there has another digest.
            InvalidManifestError: The digest is none, or what stands there is no manifest.
        """
        checks.sha256("digest", digest)
        path = self.manifests_folder / f"{digest}.json"
        try:
            manifest = read_manifest(path)
        except ArtifactMissingError:
            raise ArtifactMissingError(digest, f"no manifest in {self.folder} has this digest") from None
        if manifest.digest != digest:
            raise ArtifactTamperedError(path, (f"{path.name} has the digest {manifest.digest[:12]}...",))
        return manifest

    def find(self, recipe_digest: str) -> ArtifactManifest | None:
        """What was made by a recipe last; None where nothing was, or it is no longer there.

        Its files are not looked at: :meth:`verify` does.

        Raises:
            ArtifactTamperedError: What stands there is damaged, was made by another recipe, or has another digest.
            InvalidManifestError: The manifest that it leads to is none.
        """
        checks.sha256("recipe_digest", recipe_digest)
        path = self._recipes / recipe_digest
        try:
            with path.open("rb") as file:
                line = file.read(4 * _DIGEST_DIGITS)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, error) from None
        digest = line[:_DIGEST_DIGITS].decode("ascii", "replace")
        if line != _recipe_line(recipe_digest, digest):
            raise ArtifactTamperedError(path, (f"{path.name} does not hold what was written",))
        try:
            manifest = self.get(digest)
            if manifest.recipe_digest != recipe_digest:
                raise ArtifactTamperedError(path, (f"{path.name} leads to what another recipe made",))
            return manifest if self.path(manifest).exists() else None
        except ArtifactMissingError:
            return None

    def path(self, manifest: ArtifactManifest) -> Path:
        """Where an artifact's file or folder is, or would be."""
        place = self._objects / manifest.content_digest
        return place if manifest.is_folder else place / manifest.files[0].path

    def verify(self, manifest: ArtifactManifest, *, progress: Callable[[HashProgress], None] | None = None) -> Path:
        """Holds an artifact's files to its manifest; returns where they are.

        Raises:
            ArtifactMissingError: The store does not have them.
            ArtifactTamperedError: A file is missing, added, cut short or changed.
            ArtifactError: The subclass says what else is wrong.
        """
        path = self.path(manifest)
        verify_files(manifest, path, progress=progress)
        return path

    def manifests(self, first_digits: str = "") -> Iterator[ArtifactManifest]:
        """Every manifest whose digest begins so, in the order of digests.

        Raises:
            ArtifactError: One cannot be read or is not what its name says.
        """
        for digest in self.digests(first_digits):
            yield self.get(digest)

    def digests(self, first_digits: str = "") -> tuple[str, ...]:
        """Digests of every manifest that begin so, in order. No manifest is read."""
        names = (path.stem for path in self.manifests_folder.glob("*.json"))
        return tuple(sorted(name for name in names if name.startswith(first_digits) and "." not in name))

    def _take(
        self,
        manifest: ArtifactManifest,
        path: Path,
        place: Path,
        *,
        move: bool,
        progress: Callable[[HashProgress], None] | None,
    ) -> None:
        """Brings the files in under a temporary name, holds them to the manifest there, and renames."""
        if is_folder(path):
            list_files(path)  # Both refuse links and special files before anything is copied.
        with folder_to_fill(self._objects) as waiting:
            new = waiting / "files"
            if not manifest.is_folder:
                new.mkdir()
            target = new if manifest.is_folder else new / manifest.files[0].path
            if not (move and _moved(manifest, path, target, progress)):
                if path.is_dir():
                    shutil.copytree(path, target, symlinks=True)
                else:
                    shutil.copyfile(path, target, follow_symlinks=False)
                verify_files(manifest, target, progress=progress)
            for file in manifest.files:
                _settle(new / file.path)
            if place.exists() and not self._is_whole(manifest):
                with suppress(FileNotFoundError):  # Somebody else moved it away.
                    place.rename(waiting / "broken")
            try:
                new.rename(place)
            except OSError:
                if not self._is_whole(manifest):
                    raise
                # Somebody else brought the same content a moment before.
        sync_folder(self._objects)

    def made(self, content_digest: str) -> tuple[ArtifactManifest, ...]:
        """Every manifest of the same content, the one made last first.

        Two runs that make the same leave two manifests. All manifests are read, so it is not for a loop.
        A damaged one is passed over as long as another describes the content.

        Raises:
            ArtifactError: None does, and one cannot be read or is not what its name says.
        """
        checks.sha256("content_digest", content_digest)
        found: list[ArtifactManifest] = []
        damage: ArtifactError | None = None
        for digest in self.digests():
            try:
                manifest = self.get(digest)
            except ArtifactError as error:
                damage = error
                continue
            if manifest.content_digest == content_digest:
                found.append(manifest)
        if damage is not None and not found:
            raise damage
        return tuple(sorted(found, key=lambda manifest: -manifest.created_ns))

    def _holds(self, path: Path) -> bool:
        """Whether a path leads to what the store keeps, rather than to something that was brought."""
        return path.resolve().is_relative_to(self._objects.resolve())

    def _is_whole(self, manifest: ArtifactManifest) -> bool:
        try:
            self.verify(manifest)
        except ArtifactError:
            return False
        return True


def _recipe_line(recipe_digest: str, digest: str) -> bytes:
    """A recipe's file: a flipped digit would otherwise lead nowhere, which looks like a stage that never ran."""
    check = hashlib.sha256(f"{recipe_digest} {digest}".encode()).hexdigest()
    return f"{digest} {check}\n".encode()


def _moved(
    manifest: ArtifactManifest, path: Path, target: Path, progress: Callable[[HashProgress], None] | None
) -> bool:
    """Renames an artifact that is what its manifest says; False where that is on another disk."""
    verify_files(manifest, path, progress=progress)
    try:
        path.rename(target)
    except OSError:
        return False
    return True


def _settle(path: Path) -> None:
    """Brings a file to the disk and takes away the right to write to it, which protects it from slips only."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
        os.fchmod(descriptor, 0o444)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
