from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.provenance import provenance, write_provenance

Described = Callable[..., ArtifactManifest]


def read_as_in_toto(document: dict[str, Any]) -> tuple[Any, Any]:
    """The statement and its predicate, read by in-toto's own library, which refuses fields it does not know."""
    read = json_format.Parse(json.dumps(document), statement_pb2.Statement())
    Statement.copy_from_pb(read).validate()
    return read, json_format.ParseDict(document["predicate"], provenance_pb2.Provenance())


def test_in_totos_library_reads_the_provenance_of_a_file_and_of_a_folder(
    file: Path, folder: Path, described: Described
) -> None:
    for path in (file, folder):
        manifest = described(path)
        read, predicate = read_as_in_toto(provenance(manifest))
        assert read.predicate_type == "https://slsa.dev/provenance/v1"
        assert [subject.digest["sha256"] for subject in read.subject] == [
            *(each.sha256 for each in manifest.files),
            manifest.digest,
        ]
        definition = predicate.build_definition
        assert definition.external_parameters["stage"] == "finetune"
        assert definition.external_parameters["parameters"]["steps"] == 12
        assert definition.internal_parameters["traceparent"] == manifest.origin.traceparent
        details = predicate.run_details
        assert details.metadata.invocation_id == "run-7"
        assert details.metadata.started_on.ToNanoseconds() == manifest.origin.started_ns
        assert details.metadata.finished_on.ToNanoseconds() == manifest.created_ns
        assert details.builder.version["torch"] == "2.13.0"


def test_the_dependencies_of_a_child_are_subjects_of_its_parents_provenance(
    file: Path, folder: Path, described: Described
) -> None:
    parent = described(folder)
    child = described(file, kind="gguf", parents=(parent.as_parent("model"),))
    _, predicate = read_as_in_toto(provenance(child))
    needed, source = predicate.build_definition.resolved_dependencies
    of_parent, _ = read_as_in_toto(provenance(parent))
    assert needed.digest["sha256"] in {subject.digest["sha256"] for subject in of_parent.subject}
    assert (needed.name, needed.annotations["role"]) == ("checkpoint", "model")
    assert source.digest["gitCommit"] == "a" * 40


def test_what_is_not_known_is_left_out(file: Path, described: Described) -> None:
    bare = ArtifactManifest(name="m", kind="gguf", files=described(file).files, created_ns=1, is_folder=False)
    document = provenance(bare)
    read_as_in_toto(document)
    assert document["predicate"]["buildDefinition"]["internalParameters"] == {}
    assert [*document["predicate"]["runDetails"]["metadata"]] == ["finishedOn"]


def test_it_is_written_beside_the_artifact_with_equal_bytes(file: Path, described: Described) -> None:
    path = write_provenance(described(file), file)
    assert path.name == "model.gguf.intoto.json"
    first = path.read_bytes()
    write_provenance(described(file), file)
    assert path.read_bytes() == first
    assert json.loads(first) == provenance(described(file))


def test_in_totos_library_would_notice_a_field_that_is_wrong(file: Path, described: Described) -> None:
    document = provenance(described(file))
    document["predicate"]["runDetails"]["colour"] = "red"
    with pytest.raises(json_format.ParseError):
        read_as_in_toto(document)
