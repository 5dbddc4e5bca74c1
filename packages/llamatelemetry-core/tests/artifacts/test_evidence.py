from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llamatelemetry.artifacts.evidence import evidence_of
from llamatelemetry.artifacts.files import create_manifest, manifest_path, write_manifest
from llamatelemetry.artifacts.hashing import hash_file
from llamatelemetry.artifacts.lineage import Lineage
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.store import ArtifactStore

Described = Callable[..., ArtifactManifest]
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WRITTEN = Lineage(run_id="run-9", trace_id="1" * 32, span_id="2" * 16)


def test_of_a_model_from_anywhere_nothing_is_said(file: Path) -> None:
    evidence = evidence_of(file, {"general.name": "m"})
    assert not evidence.there
    assert evidence.judge(None) is None
    assert evidence.judge("a" * 64) is None


def test_a_file_that_is_what_its_manifest_says_was_made_by_the_run_that_it_names(
    file: Path, described: Described
) -> None:
    write_manifest(described(file, kind="gguf"), file)
    lineage = evidence_of(file, WRITTEN.metadata()).judge(hash_file(file).sha256)
    assert lineage is not None
    assert (lineage.standing, lineage.problem) == ("verified", "")
    assert (lineage.run_id, lineage.trace_id, lineage.span_id) == ("run-7", TRACE_ID, SPAN_ID)


def test_a_manifest_that_knows_no_span_proves_what_the_file_says(file: Path) -> None:
    write_manifest(create_manifest(file, kind="gguf"), file)
    lineage = evidence_of(file, WRITTEN.metadata()).judge(hash_file(file).sha256)
    assert lineage is not None
    assert (lineage.standing, lineage.run_id, lineage.span_id) == ("verified", "run-9", "2" * 16)
    bare = evidence_of(file, {}).judge(hash_file(file).sha256)
    assert bare is not None
    assert (bare.standing, bare.run_id, bare.span_id) == ("verified", "", "")


def test_a_file_that_was_changed_leads_nowhere(file: Path, described: Described) -> None:
    write_manifest(described(file, kind="gguf"), file)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    lineage = evidence_of(file, WRITTEN.metadata()).judge(hash_file(file).sha256)
    assert lineage is not None
    assert lineage.standing == "tampered"
    assert (lineage.run_id, lineage.trace_id, lineage.span_id) == ("", "", "")
    assert "do not use it" in lineage.problem


def test_a_damaged_manifest_leads_nowhere_and_is_named(file: Path, described: Described) -> None:
    write_manifest(described(file, kind="gguf"), file)
    path = manifest_path(file)
    path.write_bytes(path.read_bytes().replace(b"run-7", b"run-8"))
    evidence = evidence_of(file, WRITTEN.metadata())
    assert evidence.there
    lineage = evidence.judge(hash_file(file).sha256)
    assert lineage is not None
    assert (lineage.standing, lineage.span_id) == ("tampered", "")
    assert "model.gguf.manifest.json" in lineage.problem


def test_without_a_manifest_the_file_is_taken_at_its_word_with_that_said(file: Path) -> None:
    lineage = evidence_of(file, WRITTEN.metadata()).judge(hash_file(file).sha256)
    assert lineage is not None
    assert (lineage.standing, lineage.run_id, lineage.span_id) == ("missing", "run-9", "2" * 16)
    assert "not proved" in lineage.problem


def test_a_word_that_makes_no_sense_is_not_taken(file: Path, described: Described) -> None:
    nonsense = {"llamatelemetry.lineage.trace_id": "x"}
    lineage = evidence_of(file, nonsense).judge(None)
    assert lineage is not None
    assert (lineage.standing, lineage.trace_id) == ("tampered", "")
    write_manifest(described(file, kind="gguf"), file)
    lineage = evidence_of(file, nonsense).judge(hash_file(file).sha256)
    assert lineage is not None
    assert (lineage.standing, lineage.trace_id) == ("verified", TRACE_ID)


def test_what_nobody_hashed_is_not_called_verified(file: Path, described: Described) -> None:
    write_manifest(described(file, kind="gguf"), file)
    lineage = evidence_of(file, {}).judge(None)
    assert lineage is not None
    assert (lineage.standing, lineage.span_id) == ("unverified", SPAN_ID)


def test_a_link_to_a_file_in_a_store_is_described_by_the_stores_manifest(
    tmp_path: Path, file: Path, described: Described
) -> None:
    place = ArtifactStore(tmp_path / "store").add(described(file, kind="gguf"), file)
    link = tmp_path / "current.gguf"
    link.symlink_to(place)
    lineage = evidence_of(link, {}).judge(hash_file(place).sha256)
    assert lineage is not None
    assert lineage.standing == "verified"


def test_paths_that_cannot_be_looked_at_are_no_error(tmp_path: Path) -> None:
    assert not evidence_of(tmp_path / "absent.gguf", {}).there
    assert evidence_of(Path("a\0b"), {}).problem
