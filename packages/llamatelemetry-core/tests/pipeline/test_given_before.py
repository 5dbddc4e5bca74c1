"""What is given decides all that is made of it: what changed since the run before is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamatelemetry.pipeline import Pipeline, Port


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def pipeline(join) -> Pipeline:
    stage = join("x", inputs=(Port(name="base", kind="folder"),))
    stage.run = lambda context: {"text": _listed(context)}
    return Pipeline([stage])


def _listed(context) -> Path:
    made = context.folder / "text.txt"
    made.write_text(" ".join(sorted(path.name for path in context.path("base").iterdir())))
    return made


def test_each_file_that_is_another_one_is_named_once(pipeline, store, given, caplog):
    first = pipeline.run("road", store=store, inputs={"base": given}).record
    (given / "a").write_text("A")
    (given / "b").unlink()
    (given / "d").write_text("d")

    second = pipeline.run("road", store=store, inputs={"base": given}).record
    third = pipeline.run("road", store=store, inputs={"base": given}).record

    (change,) = second.changes
    assert change.startswith(f"inputs.base is not what it was in run {first.run_id}: b is missing, d was added, ")
    assert "a has the SHA-256 559aead08264... instead of ca978112ca1b..." in change
    assert change in caplog.text
    assert (first.changes, third.changes) == ((), ())
    assert third.stages[0].state == "reused"


def test_what_another_pipeline_or_another_path_was_given_is_no_change(pipeline, store, given):
    pipeline.run("road", store=store, inputs={"base": given})
    moved = given.rename(given.with_name("moved"))
    (moved / "a").write_text("A")
    assert pipeline.run("road", store=store, inputs={"base": moved}).record.changes == ()
    (moved / "a").write_text("AA")
    assert pipeline.run("another", store=store, inputs={"base": moved}).record.changes == ()
    assert len(pipeline.run("road", store=store, inputs={"base": moved}).record.changes) == 1


def test_many_files_are_counted(pipeline, store, given):
    pipeline.run("road", store=store, inputs={"base": given})
    for number in range(20):
        (given / f"new{number:02}").write_text("new")
    (change,) = pipeline.run("road", store=store, inputs={"base": given}).record.changes
    assert change.endswith("new07 was added and 12 more")


def test_damaged_records_and_manifests_tell_nothing(pipeline, store, given):
    first = pipeline.run("road", store=store, inputs={"base": given}).record
    (given / "a").write_text("A")
    manifest = store / "manifests" / f"{first.given_digests['base']}.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(b"{")
    second = pipeline.run("road", store=store, inputs={"base": given}).record
    assert second.changes == ()
    manifest.write_bytes(whole)
    for run in (first, second):
        record = store / "runs" / f"{run.run_id}.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "given_digests": {"base": "../../x"}}))
    assert pipeline.run("road", store=store, inputs={"base": given}).record.changes == ()
