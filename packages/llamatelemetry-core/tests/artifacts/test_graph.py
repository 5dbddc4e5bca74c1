from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llamatelemetry.artifacts.files import create_manifest
from llamatelemetry.artifacts.graph import ancestry
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.store import ArtifactStore

Described = Callable[..., ArtifactManifest]


def test_parents_are_followed_to_the_last_and_each_is_there_once(
    tmp_path: Path, file: Path, folder: Path, described: Described
) -> None:
    store = ArtifactStore(tmp_path / "store")
    base = create_manifest(folder, kind="checkpoint")
    tuned = described(folder, parents=(base.as_parent("model"),))
    gguf = described(file, kind="gguf", parents=(tuned.as_parent("model"), base.as_parent("tokenizer")))
    for each in (base, tuned):
        store.note(each)
    found = ancestry(gguf, store)
    assert list(found.found.values()) == [gguf, tuned, base]
    assert found.whole


def test_what_is_missing_and_what_is_damaged_are_told_apart(
    tmp_path: Path, file: Path, folder: Path, described: Described
) -> None:
    store = ArtifactStore(tmp_path / "store")
    base, other = create_manifest(folder, kind="checkpoint"), described(folder)
    gguf = described(file, kind="gguf", parents=(base.as_parent("model"), other.as_parent("teacher")))
    store.note(other)
    path = store.folder / "manifests" / f"{other.digest}.json"
    path.write_bytes(path.read_bytes()[:-1])
    found = ancestry(gguf, store)
    assert list(found.found) == [gguf.digest]
    assert found.missing == {base.digest: gguf.parents[0]}
    assert path.name in found.damaged[other.digest]
    assert not found.whole


def test_a_manifest_that_names_itself_does_not_hang(tmp_path: Path, file: Path, described: Described) -> None:
    """No honest one can; a chain that leads back would have to contain its own digest."""
    store = ArtifactStore(tmp_path / "store")
    child = described(file, kind="gguf", parents=(described(file).as_parent("model"),) * 3)
    found = ancestry(child, store)
    assert len(found.missing) == 1
