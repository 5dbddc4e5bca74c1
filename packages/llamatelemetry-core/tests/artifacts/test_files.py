from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llamatelemetry.artifacts.files import (
    Difference,
    artifact_path,
    compare_files,
    create_manifest,
    load_artifact,
    manifest_path,
    read_manifest,
    verify_files,
    write_manifest,
)
from llamatelemetry.artifacts.hashing import BUFFER_BYTES, HashProgress
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.errors import (
    ArtifactChangedError,
    ArtifactMissingError,
    ArtifactTamperedError,
    InvalidManifestError,
    UnsafePathError,
)

Described = Callable[..., ArtifactManifest]


def kept(path: Path) -> Path:
    """The artifact, once it has a manifest beside it."""
    write_manifest(create_manifest(path, kind="checkpoint"), path)
    return path


def test_a_folder_and_a_file_are_loaded_as_they_were_described(folder: Path, file: Path, described: Described) -> None:
    for path in (folder, file):
        manifest = described(path)
        assert write_manifest(manifest, path) == path.with_name(path.name + ".manifest.json")
        assert load_artifact(path) == manifest
        assert artifact_path(manifest_path(path)) == path
    assert described(folder).size_bytes == sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    assert [each.media_type for each in described(folder).files[:2]] == [
        "application/json",
        "application/x-safetensors",
    ]


def test_the_bytes_do_not_depend_on_where_the_artifact_is_nor_on_the_order_of_its_making(
    folder: Path, described: Described, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / folder.name
    other.mkdir(parents=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file():
            copy = other / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    assert described(other).to_bytes() == described(folder).to_bytes()


def test_a_flipped_byte_in_any_file_is_found_and_that_file_is_named(folder: Path) -> None:
    kept(folder)
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        for place in {0, len(content) // 2, len(content) - 1} if content else ():
            damaged = bytearray(content)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(ArtifactTamperedError) as caught:
                load_artifact(folder)
            (finding,) = caught.value.findings
            assert finding.startswith(f"{path.relative_to(folder).as_posix()} has the SHA-256 ")
        if content:
            path.write_bytes(content)
    load_artifact(folder)


def test_a_flipped_byte_anywhere_in_the_manifest_is_found_and_the_manifest_is_named(folder: Path) -> None:
    path = manifest_path(kept(folder))
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InvalidManifestError, match=r"checkpoint\.manifest\.json: "):
            read_manifest(path)


def test_every_kind_of_difference_is_named_with_its_file(folder: Path) -> None:
    manifest = create_manifest(folder, kind="checkpoint")
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"\x00" * 4095)
    (folder / "sub" / "a.txt").write_text("grown")
    (folder / "sub" / "deep" / "ü.bin").write_bytes(b"y")
    (folder / "sub" / "evil.py").write_text("import os")
    findings = compare_files(manifest, folder)
    assert [(each.path, each.difference) for each in findings] == [
        ("config.json", Difference.MISSING),
        ("model.safetensors", Difference.TRUNCATED),
        ("sub/a.txt", Difference.GROWN),
        ("sub/deep/ü.bin", Difference.CHANGED),
        ("sub/evil.py", Difference.ADDED),
    ]
    assert str(findings[1]) == "model.safetensors is cut short: 4095 bytes instead of 4096"


def test_a_file_may_have_another_name_than_in_its_manifest_but_not_another_content(file: Path) -> None:
    manifest = create_manifest(file, kind="gguf")
    moved = file.rename(file.with_name("renamed.gguf"))
    verify_files(manifest, moved)
    moved.write_bytes(b"GGUF" + bytes(2560))
    with pytest.raises(ArtifactTamperedError, match=r"renamed\.gguf is not what its manifest says: model\.gguf has"):
        verify_files(manifest, moved)


def test_a_folder_in_place_of_a_file_is_a_difference(file: Path, folder: Path) -> None:
    with pytest.raises(ArtifactTamperedError, match="is not one file"):
        verify_files(create_manifest(file, kind="gguf"), folder)
    with pytest.raises(ArtifactTamperedError, match="is not a folder"):
        verify_files(create_manifest(folder, kind="checkpoint"), file)


def test_a_link_that_was_put_in_place_of_a_file_is_refused_though_it_leads_to_the_same(folder: Path) -> None:
    kept(folder)
    path = folder / "config.json"
    path.rename(folder.with_name("outside.json"))
    path.symlink_to("../outside.json")
    with pytest.raises(UnsafePathError, match=r"config\.json is a symbolic link"):
        load_artifact(folder)


def test_what_has_no_manifest_is_not_trusted(file: Path) -> None:
    with pytest.raises(ArtifactMissingError, match="without a manifest is not trusted"):
        load_artifact(file)


def test_a_manifest_that_is_a_link_or_a_pipe_is_refused(file: Path) -> None:
    path = manifest_path(kept(file))
    other = path.rename(path.with_name("other.json"))
    path.symlink_to(other)
    with pytest.raises(UnsafePathError):
        read_manifest(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UnsafePathError):
        read_manifest(path)


def test_a_file_that_comes_while_others_are_hashed_is_not_missed(folder: Path) -> None:
    (folder / "large.bin").write_bytes(bytes(4 * BUFFER_BYTES))

    def add(_progress: HashProgress) -> None:
        (folder / "late.py").write_text("")

    with pytest.raises(ArtifactChangedError):
        create_manifest(folder, kind="checkpoint", progress=add)


def test_an_empty_folder_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifestError, match="at least one file"):
        create_manifest(tmp_path, kind="checkpoint")


def test_the_folder_one_stands_in_can_be_an_artifact(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    kept(Path())
    assert load_artifact(folder) == load_artifact(Path("sub/.."))
    assert manifest_path(Path("..")) == folder.parent.with_name(folder.parent.name + ".manifest.json")
    with pytest.raises(InvalidManifestError, match="that has a name"):
        manifest_path(Path("/"))


def test_only_a_file_that_is_named_like_a_manifest_leads_to_its_artifact() -> None:
    with pytest.raises(InvalidManifestError, match="named like its artifact"):
        artifact_path(Path("model.json"))
    with pytest.raises(InvalidManifestError):
        artifact_path(Path(".manifest.json"))
