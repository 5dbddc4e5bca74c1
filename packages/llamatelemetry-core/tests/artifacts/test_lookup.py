from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from llamatelemetry.artifacts.files import manifest_path, write_manifest
from llamatelemetry.artifacts.lookup import describe_file, stored_artifact
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import ArtifactTamperedError, InvalidManifestError

Described = Callable[..., ArtifactManifest]


def test_a_file_is_described_by_the_manifest_beside_it_also_under_another_name(
    file: Path, described: Described, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = described(file, kind="gguf")
    renamed = file.rename(file.with_name("renamed.gguf"))
    write_manifest(manifest, renamed)
    monkeypatch.chdir(file.parent)
    for path in (renamed, Path("renamed.gguf")):
        found = describe_file(path)
        assert found is not None
        assert (found.manifest, found.file) == (manifest, manifest.files[0])


def test_a_file_in_a_folder_is_described_by_the_manifest_beside_the_folder(folder: Path, described: Described) -> None:
    write_manifest(described(folder), folder)
    found = describe_file(folder / "config.json")
    assert found is not None
    assert found.file.path == "config.json"
    with pytest.raises(ArtifactTamperedError, match=r"new\.json is not in the manifest of checkpoint"):
        describe_file(folder / "new.json")


def test_a_file_in_a_store_is_described_by_the_oldest_manifest_of_its_content(
    tmp_path: Path, file: Path, folder: Path, described: Described
) -> None:
    store = ArtifactStore(tmp_path / "store")
    manifest = described(file, kind="gguf")
    later = dataclasses.replace(manifest, created_ns=manifest.created_ns + 1)
    place = store.add(later, file)
    store.add(manifest, file)
    found = describe_file(place)
    assert found is not None
    assert found.manifest == manifest
    whole = store.add(described(folder), folder)
    found = describe_file(whole / "sub" / "a.txt")
    assert found is not None
    assert found.file.path == "sub/a.txt"
    assert stored_artifact(whole) == ((described(folder),), ".")


def test_what_nothing_describes_is_no_error(file: Path) -> None:
    assert describe_file(file) is None
    assert stored_artifact(file) is None
    assert describe_file(Path("/absent.gguf")) is None


def test_a_damaged_manifest_is_an_error_and_not_an_absent_one(file: Path, described: Described) -> None:
    write_manifest(described(file, kind="gguf"), file)
    path = manifest_path(file)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidManifestError, match=r"model\.gguf\.manifest\.json"):
        describe_file(file)
