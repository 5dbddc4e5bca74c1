from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.artifacts.manifest import (
    ArtifactFile,
    ArtifactManifest,
    ArtifactOrigin,
    ArtifactParent,
    content_digest,
    recipe_digest,
)
from llamatelemetry.errors import InvalidManifestError, UnsafePathError

A, B = "a" * 64, "b" * 64
FILE = ArtifactFile(path="model.gguf", size_bytes=3, sha256=A)


def manifest(**changes: Any) -> ArtifactManifest:
    facts: dict[str, Any] = {"name": "m", "kind": "gguf", "files": (FILE,), "created_ns": 0, "is_folder": False}
    return ArtifactManifest(**(facts | changes))


def test_equal_manifests_have_equal_bytes_whatever_the_order_they_were_given_in() -> None:
    other = ArtifactFile(path="a.json", size_bytes=1, sha256=B)
    one = manifest(files=(FILE, other), is_folder=True, parameters={"a": 1, "b": 2.0}, tools={"x": "1", "y": "2"})
    two = manifest(files=(other, FILE), is_folder=True, parameters={"b": 2, "a": 1}, tools={"y": "2", "x": "1"})
    assert one == two
    assert one.to_bytes() == two.to_bytes()


def test_the_bytes_of_a_manifest_are_these() -> None:
    """Digests of manifests are in other manifests, so the form may never change without a new version."""
    expected = (
        '{"created_at":"1970-01-01T00:00:00.000000000Z","files":[{"media_type":"application/octet-stream",'
        f'"path":"model.gguf","sha256":"{A}","size_bytes":3}}],"format":"llamatelemetry.artifact","kind":"gguf",'
        '"layout":"file","name":"m","origin":{},"parameters":{},"parents":[],"seal":"SEAL","tools":{},"version":1}'
    )
    seal = hashlib.sha256(expected.replace('"seal":"SEAL",', "").encode()).hexdigest()
    assert manifest().to_bytes().decode() == expected.replace("SEAL", seal)
    assert manifest().digest == hashlib.sha256(manifest().to_bytes()).hexdigest()


def test_the_content_digest_is_that_of_the_files_alone() -> None:
    renamed = manifest(name="other", created_ns=5, origin=ArtifactOrigin(run_id="r"))
    assert renamed.content_digest == manifest().content_digest
    assert renamed.digest != manifest().digest
    listing = [{"path": "model.gguf", "sha256": A, "size_bytes": 3}]
    text = json.dumps(listing, separators=(",", ":"), sort_keys=True)
    assert content_digest((FILE,)) == hashlib.sha256(text.encode()).hexdigest()
    changed = dataclasses.replace(FILE, sha256=B)
    assert content_digest((changed,)) != content_digest((FILE,))


def test_a_recipe_is_known_before_the_stage_runs_and_forgets_when_its_inputs_were_made() -> None:
    parent = ArtifactParent(role="model", name="base", digest=A, content_digest=B)
    made = manifest(parents=(parent,), origin=ArtifactOrigin(stage="quantize"), parameters={"type": "Q8_0"})
    known: dict[str, Any] = {"stage": "quantize", "parameters": {"type": "Q8_0"}, "tools": {}, "parents": (parent,)}
    assert recipe_digest(**known) == made.recipe_digest
    again = dataclasses.replace(parent, digest=B, name="other")
    assert recipe_digest(**(known | {"parents": (again,)})) == made.recipe_digest
    for change in (
        {"stage": "convert"},
        {"parameters": {"type": "Q4_0"}},
        {"tools": {"ggml": "2"}},
        {"parents": (dataclasses.replace(parent, content_digest=A),)},
        {"parents": (dataclasses.replace(parent, role="adapter"),)},
    ):
        assert recipe_digest(**(known | change)) != made.recipe_digest


def test_what_a_caller_changes_later_does_not_reach_in() -> None:
    parameters = {"layers": ["q"]}
    made = manifest(parameters=parameters)
    before = made.digest
    parameters["layers"].append("v")
    assert made.digest == before


def test_a_float_that_is_written_as_a_whole_number_can_be_a_parameter() -> None:
    assert b'"x":10000000000000000' in manifest(parameters={"x": 1e16}).to_bytes()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"kind": "A B"}, "kind"),
        ({"created_ns": -1}, "created_ns"),
        ({"files": ()}, "files"),
        ({"files": (FILE, FILE), "is_folder": True}, "files"),
        ({"files": (FILE, dataclasses.replace(FILE, path="x"))}, "files"),
        ({"files": (dataclasses.replace(FILE, path="a/b"),)}, "files"),
        ({"parameters": {"a": float("nan")}}, "parameters.a"),
        ({"tools": {"torch": 2}}, "tools.torch"),
    ],
)
def test_a_field_that_cannot_be_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        manifest(**changes)
    assert caught.value.field == field


def test_a_file_that_leads_out_of_its_artifact_is_refused() -> None:
    with pytest.raises(UnsafePathError):
        ArtifactFile(path="../x", size_bytes=1, sha256=A)


def test_an_origin_gives_its_span_as_a_traceparent() -> None:
    origin = ArtifactOrigin(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331")
    assert origin.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert ArtifactOrigin(trace_id="0af7651916cd43dd8448eb211c80319c").traceparent == ""


def test_a_child_points_at_both_digests(tmp_path: Path) -> None:
    parent = manifest().as_parent("model")
    assert (parent.role, parent.name) == ("model", "m")
    assert (parent.digest, parent.content_digest) == (manifest().digest, manifest().content_digest)


def test_a_manifest_that_could_not_be_read_again_is_not_written() -> None:
    with pytest.raises(InvalidManifestError, match="at most 16777216 bytes"):
        manifest(parameters={"text": "x" * 2**24}).to_bytes()
