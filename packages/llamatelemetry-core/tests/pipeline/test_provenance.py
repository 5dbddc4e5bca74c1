"""Every output of a stage has its provenance beside its manifest."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from llamatelemetry.artifacts.kept_provenance import check_provenance, provenance_path
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import ArtifactMissingError, ArtifactTamperedError
from llamatelemetry.pipeline import Node, Pipeline, Port

TEXT, REPORT = Port(name="text", kind="text"), Port(name="report", kind="report")


@pytest.fixture
def run(join, tmp_path):
    """Runs two stages, the second of which makes two things; gives the run."""

    def go():
        second = Node(stage=join("b", name="second", inputs=(TEXT,), outputs=(TEXT, REPORT)))
        return Pipeline([join("a", name="first"), second]).run("two", store=tmp_path / "store")

    return go


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "store")


def test_in_toto_reads_what_stands_beside_each_manifest(run, store):
    made = run()

    assert set(made.artifacts) == {"first.text", "second.text", "second.report"}
    for name, artifact in made.artifacts.items():
        manifest = artifact.manifest
        path = store.folder / "manifests" / f"{manifest.digest}.intoto.json"
        assert path == provenance_path(store, manifest)
        document = json.loads(path.read_text())
        statement = json_format.ParseDict(document, statement_pb2.Statement())
        Statement.copy_from_pb(statement).validate()
        predicate = json_format.ParseDict(document["predicate"], provenance_pb2.Provenance())
        assert {subject.digest["sha256"] for subject in statement.subject} == {
            manifest.digest,
            manifest.files[0].sha256,
        }
        assert predicate.build_definition.external_parameters["stage"].startswith(name.partition(".")[0])
        assert predicate.run_details.metadata.invocation_id == made.record.run_id
    needed = predicate.build_definition.resolved_dependencies
    assert made.artifacts["first.text"].manifest.digest in {each.digest["sha256"] for each in needed}


def test_it_is_no_manifest(run, store):
    made = run()

    assert set(store.digests()) == {artifact.manifest.digest for artifact in made.artifacts.values()}


def test_what_is_missing_is_written_when_the_outcome_is_taken_again(run, store):
    manifest = run().artifacts["second.report"].manifest
    path = provenance_path(store, manifest)
    written = path.read_bytes()
    path.unlink()
    with pytest.raises(ArtifactMissingError):
        check_provenance(store, manifest)

    again = run()

    assert [stage.state for stage in again.record.stages] == ["reused", "reused"]
    assert [stage.damage for stage in again.record.stages] == [(), ()]
    assert path.read_bytes() == written


@pytest.mark.parametrize("damage", [lambda text: text.replace(b"two", b"twp"), lambda text: text + b" ", lambda _: b""])
def test_a_flipped_byte_is_named_and_mended(run, store, damage):
    manifest = run().artifacts["first.text"].manifest
    path = provenance_path(store, manifest)
    written = path.read_bytes()
    path.write_bytes(damage(written.replace(b"first", b"firsu", 1)))
    with pytest.raises(ArtifactTamperedError, match=r"\.intoto\.json does not say what its manifest says"):
        check_provenance(store, manifest)

    again = run()

    assert [stage.state for stage in again.record.stages] == ["reused", "reused"]
    assert path.name in again.record.stages[0].damage[0]
    assert path.read_bytes() == written
