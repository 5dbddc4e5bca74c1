from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llamatelemetry.artifacts.files import create_manifest
from llamatelemetry.artifacts.manifest import ArtifactManifest, ArtifactOrigin
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import ArtifactError, ArtifactMissingError, ArtifactTamperedError, InvalidManifestError

ADDS = """
import sys
from pathlib import Path
from llamatelemetry.artifacts.files import create_manifest
from llamatelemetry.artifacts.store import ArtifactStore
folder, store = Path(sys.argv[1]), ArtifactStore(sys.argv[2])
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    manifest = create_manifest(folder, kind="checkpoint")
    print(store.add(manifest, folder), manifest.digest, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def made(path: Path, *, stage: str = "convert", created_ns: int = 5) -> ArtifactManifest:
    manifest = create_manifest(path, kind="checkpoint", origin=ArtifactOrigin(stage=stage))
    return dataclasses.replace(manifest, created_ns=created_ns)


def adding(folder: Path, store: ArtifactStore, times: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ADDS, folder, store.folder, str(times)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def verified(store: ArtifactStore, recipe_digest: str) -> None:
    """What a runner does before it leaves a stage out."""
    found = store.find(recipe_digest)
    assert found is not None
    store.verify(found)


def everything(store: ArtifactStore) -> list[str]:
    return sorted(path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file())


def test_an_artifact_is_found_by_its_manifest_its_content_and_its_recipe(store: ArtifactStore, folder: Path) -> None:
    manifest = made(folder)
    place = store.add(manifest, folder)
    assert place == store.folder / "objects" / manifest.content_digest
    assert store.get(manifest.digest) == manifest
    assert store.find(manifest.recipe_digest) == manifest
    assert store.made(manifest.content_digest) == (manifest,)
    assert store.verify(manifest) == place
    assert list(store.manifests()) == [manifest]
    assert folder.exists()


def test_a_single_file_keeps_its_name(store: ArtifactStore, file: Path) -> None:
    manifest = made(file)
    place = store.add(manifest, file)
    assert place.name == "model.gguf"
    assert place.read_bytes() == file.read_bytes()
    assert stat.S_IMODE(place.stat().st_mode) == 0o444


def test_the_same_content_is_there_once_and_both_manifests_of_it_are(store: ArtifactStore, folder: Path) -> None:
    first, second = made(folder), made(folder, created_ns=9)
    assert store.add(first, folder) == store.add(second, folder)
    assert len(list((store.folder / "objects").iterdir())) == 1
    assert store.made(first.content_digest) == (second, first)
    assert store.find(first.recipe_digest) == second


def test_what_is_not_what_its_manifest_says_is_not_taken(store: ArtifactStore, folder: Path) -> None:
    manifest = made(folder)
    (folder / "config.json").write_text('{"a": 2}')
    with pytest.raises(ArtifactTamperedError, match=r"config\.json"):
        store.add(manifest, folder, move=True)
    assert everything(store) == []
    assert (folder / "config.json").exists()


def test_a_wrong_path_is_noticed_though_the_store_has_the_right_content(
    store: ArtifactStore, folder: Path, file: Path
) -> None:
    manifest = made(folder)
    store.add(manifest, folder)
    with pytest.raises(ArtifactTamperedError):
        store.add(manifest, file, move=True)
    assert file.exists()


def test_what_is_moved_is_gone_from_where_it_was(store: ArtifactStore, folder: Path) -> None:
    manifest = made(folder)
    place = store.add(manifest, folder, move=True)
    assert not folder.exists()
    assert store.verify(manifest) == place


def test_what_the_store_keeps_itself_is_not_taken_away_from_it(store: ArtifactStore, folder: Path) -> None:
    manifest = made(folder)
    place = store.add(manifest, folder)
    assert store.add(made(folder, created_ns=9), place, move=True) == place
    assert store.verify(manifest) == place


def test_a_flipped_byte_of_any_file_in_the_store_is_found_and_named(store: ArtifactStore, folder: Path) -> None:
    manifest = made(folder)
    store.add(manifest, folder)
    for name in everything(store):
        path = store.folder / name
        content = path.read_bytes()
        if not content:
            continue
        path.chmod(0o644)
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError) as caught:
            verified(store, manifest.recipe_digest)
        assert (path.name if name.startswith(("manifests", "recipes")) else name.split("/", 2)[2]) in str(caught.value)
        path.write_bytes(content)
    store.verify(manifest)


def test_a_damaged_artifact_gives_way_to_a_whole_one(store: ArtifactStore, folder: Path) -> None:
    manifest = made(folder)
    place = store.add(manifest, folder)
    (place / "config.json").unlink()
    store.add(manifest, folder)
    store.verify(manifest)
    assert [path.name for path in (store.folder / "objects").iterdir()] == [manifest.content_digest]


def test_a_manifest_under_another_name_is_not_believed(store: ArtifactStore, folder: Path) -> None:
    manifest = made(folder)
    store.add(manifest, folder)
    other = "0" * 64
    (store.folder / "manifests" / f"{manifest.digest}.json").rename(store.folder / "manifests" / f"{other}.json")
    with pytest.raises(ArtifactTamperedError, match=manifest.digest[:12]):
        store.get(other)
    with pytest.raises(ArtifactMissingError, match="has this digest"):
        store.get(manifest.digest)
    assert store.find(manifest.recipe_digest) is None


def test_a_damaged_manifest_stands_in_the_way_of_its_own_artifact_only(
    store: ArtifactStore, folder: Path, file: Path
) -> None:
    good, bad = made(folder), made(file)
    for manifest, path in ((good, folder), (bad, file)):
        store.add(manifest, path)
    (store.folder / "manifests" / f"{bad.digest}.json").write_text("{}")
    assert store.made(good.content_digest) == (good,)
    assert set(store.digests()) == {good.digest, bad.digest}
    assert list(store.manifests(good.digest[:20])) == [good]
    with pytest.raises(InvalidManifestError, match=bad.digest):
        store.made(bad.content_digest)


def test_a_recipe_that_leads_to_what_another_made_is_not_believed(store: ArtifactStore, folder: Path) -> None:
    manifest, other = made(folder), made(folder, stage="quantize")
    store.add(manifest, folder)
    store.add(other, folder)
    recipes = store.folder / "recipes"
    (recipes / manifest.recipe_digest).write_bytes((recipes / other.recipe_digest).read_bytes())
    with pytest.raises(ArtifactTamperedError, match=manifest.recipe_digest):
        store.find(manifest.recipe_digest)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "x" * 64, "a" * 63])
def test_a_digest_that_is_none_never_becomes_a_path(store: ArtifactStore, digest: str) -> None:
    for ask in (store.get, store.find, store.made):
        with pytest.raises(InvalidManifestError, match="64 lower-case"):
            ask(digest)


def test_nothing_is_found_in_a_store_that_is_not_there(store: ArtifactStore) -> None:
    assert store.find("a" * 64) is None
    assert list(store.manifests()) == []
    with pytest.raises(ArtifactMissingError):
        store.get("a" * 64)


def test_links_in_what_is_brought_are_refused_before_anything_is_copied(store: ArtifactStore, folder: Path) -> None:
    manifest = made(folder)
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArtifactError, match="symbolic link"):
        store.add(manifest, folder)
    assert everything(store) == []


def test_processes_that_add_the_same_at_once_leave_it_there_once_and_whole(store: ArtifactStore, folder: Path) -> None:
    (folder / "large.bin").write_bytes(os.urandom(3_000_000))
    processes = [adding(folder, store, 3) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=90)
        assert (process.returncode, stderr) == (0, "")
        lines += [line.split() for line in stdout.splitlines()]
    assert len({place for place, _ in lines}) == 1
    assert [path.name for path in (store.folder / "objects").iterdir()] == [Path(lines[0][0]).name]
    digests = {digest for _, digest in lines}
    assert {manifest.digest for manifest in store.manifests()} == digests
    for manifest in store.manifests():
        store.verify(manifest)


def test_a_process_that_is_killed_while_it_adds_leaves_a_store_that_works(store: ArtifactStore, folder: Path) -> None:
    (folder / "large.bin").write_bytes(os.urandom(3_000_000))
    manifest = made(folder)
    with adding(folder, store, 1000) as process:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert store.verify(manifest)
    for found in store.manifests():
        store.verify(found)
    store.add(manifest, folder)
    assert store.find(manifest.recipe_digest) == manifest


def test_a_store_that_cannot_be_made_is_an_error_that_names_it(file: Path) -> None:
    with pytest.raises(ArtifactError, match="Not a directory"):
        ArtifactStore(file / "store").add(made(file), file)
